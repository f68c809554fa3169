// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "Culet",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "Culet", targets: ["Culet"])],
    targets: [
        .binaryTarget(name: "CCulet", path: "CCulet.xcframework"),
        .target(
            name: "Culet",
            dependencies: ["CCulet"],
            linkerSettings: [
                .linkedLibrary("c++"),
                .linkedFramework("Accelerate"),
                .linkedFramework("Metal"),
                .linkedFramework("MetalKit"),
            ]
        ),
    ]
)
