# Leaves llama.cpp's own library out of a build: Culet uses the kernels below it and nothing else,
# and it is three quarters of the work. Named in CMAKE_PROJECT_TOP_LEVEL_INCLUDES (CMake 3.24).
get_property(is_done GLOBAL PROPERTY CULET_KERNELS_ONLY)
if(NOT is_done)
  set_property(GLOBAL PROPERTY CULET_KERNELS_ONLY TRUE)
  file(WRITE "${CMAKE_BINARY_DIR}/no-llama.cpp" "extern const int culet_no_llama = 1;\n")
  # CMake keeps the command that a macro replaces under the same name with an underscore.
  macro(add_library name)
    if("${name}" STREQUAL "llama")
      _add_library(llama "${CMAKE_BINARY_DIR}/no-llama.cpp")
    else()
      _add_library(${name} ${ARGN})
    endif()
  endmacro()
endif()
