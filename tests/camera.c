/* A camera of this machine that is not there: V4L2's side of /dev/video0, inside one process.
 *
 * In: the folder CULET_TEST_CAMERA, and frames on stdin. The folder holds `name`, what the system
 * calls the camera, and `dev/video0`, a line for each mode (`YUYV 640 480 30`) or fault (`busy`,
 * `denied`). A frame is its length in four bytes, lowest first, and its bytes; one that is longer
 * than its mode's is an error of the device. Where they end, the camera is pulled out.
 * Out: what Linux answers, to a program that is started with LD_PRELOAD of this.
 * Source: the kernel's description of V4L2, for capture with mapped buffers.
 * A call that is not about the camera goes where it went.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODES_MAX 16
#define BUFFERS_MAX 8
#define PAGE 4096u

struct mode {
    uint32_t layout, width, height, rate_hz;
};

static struct mode modes[MODES_MAX];
static unsigned n_modes, mode_index;
static int camera = -1, is_busy, is_gone;
static unsigned n_buffers, queue[BUFFERS_MAX], n_queued, n_sent;

/* Returns the function that this one stands before. */
static void *behind(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static int fails(int why)
{
    errno = why;
    return -1;
}

/* Writes the path of a file in our folder. */
static const char *inside(char path[PAGE], const char *name)
{
    const char *folder = getenv("CULET_TEST_CAMERA");
    snprintf(path, PAGE, "%s/%s", folder ? folder : "", name);
    return path;
}

static int open_camera(void)
{
    char path[PAGE], line[80], layout[5];
    FILE *file = fopen(inside(path, "dev/video0"), "r");
    if (!file)
        return -1;
    int is_denied = 0;
    n_modes = mode_index = 0;
    while (fgets(line, sizeof line, file) && n_modes < MODES_MAX) {
        struct mode *mode = &modes[n_modes];
        is_busy |= !strcmp(line, "busy\n");
        is_denied |= !strcmp(line, "denied\n");
        if (sscanf(line, "%4s %u %u %u", layout, &mode->width, &mode->height, &mode->rate_hz) == 4) {
            mode->layout = v4l2_fourcc(layout[0], layout[1], layout[2], layout[3]);
            n_modes++;
        }
    }
    fclose(file);
    if (is_denied)
        return fails(EACCES);
    return camera = memfd_create("camera", 0);
}

static int opened(const char *path, int flags, int permission)
{
    static int (*real_open)(const char *, int, ...);
    char ours[PAGE];
    if (!real_open)
        *(void **)&real_open = behind("open");
    if (!strcmp(path, "/dev/video0"))
        return open_camera();
    if (!strcmp(path, "/sys/class/video4linux/video0/name"))
        path = inside(ours, "name");
    return real_open(path, flags, permission);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int permission = va_arg(rest, int);
    va_end(rest);
    return opened(path, flags, permission);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int permission = va_arg(rest, int);
    va_end(rest);
    return opened(path, flags | O_LARGEFILE, permission);
}

DIR *opendir(const char *path)
{
    static DIR *(*real_opendir)(const char *);
    char ours[PAGE];
    if (!real_opendir)
        *(void **)&real_opendir = behind("opendir");
    return real_opendir(strcmp(path, "/dev") ? path : inside(ours, "dev"));
}

int close(int file)
{
    static int (*real_close)(int);
    if (!real_close)
        *(void **)&real_close = behind("close");
    if (file == camera)
        camera = -1;
    return real_close(file);
}

static uint32_t frame_bytes(const struct mode *mode)
{
    uint32_t n_pixels = mode->width * mode->height;
    switch (mode->layout) {
    case V4L2_PIX_FMT_GREY: return n_pixels;
    case V4L2_PIX_FMT_NV12: return n_pixels * 3 / 2;
    case V4L2_PIX_FMT_RGB24:
    case V4L2_PIX_FMT_BGR24: return n_pixels * 3;
    default: return n_pixels * 2;
    }
}

/* Buffers begin at pages. */
static uint32_t buffer_bytes(void)
{
    return (frame_bytes(&modes[mode_index]) + PAGE - 1) / PAGE * PAGE;
}

/* Tells whether an earlier mode has the same layout, and the same size where that is told apart. */
static int is_repeated(unsigned index, int with_size)
{
    for (unsigned i = 0; i < index; i++)
        if (modes[i].layout == modes[index].layout
            && (!with_size || (modes[i].width == modes[index].width
                               && modes[i].height == modes[index].height)))
            return 1;
    return 0;
}

static int list_layouts(struct v4l2_fmtdesc *wanted)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_modes; i++)
        if (!is_repeated(i, 0) && n++ == wanted->index) {
            wanted->pixelformat = modes[i].layout;
            return 0;
        }
    return fails(EINVAL);
}

static int list_sizes(struct v4l2_frmsizeenum *wanted)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_modes; i++)
        if (modes[i].layout == wanted->pixel_format && !is_repeated(i, 1) && n++ == wanted->index) {
            wanted->type = V4L2_FRMSIZE_TYPE_DISCRETE;
            wanted->discrete.width = modes[i].width;
            wanted->discrete.height = modes[i].height;
            return 0;
        }
    return fails(EINVAL);
}

static int list_rates(struct v4l2_frmivalenum *wanted)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_modes; i++)
        if (modes[i].layout == wanted->pixel_format && modes[i].width == wanted->width
            && modes[i].height == wanted->height && n++ == wanted->index) {
            wanted->type = V4L2_FRMIVAL_TYPE_DISCRETE;
            wanted->discrete = (struct v4l2_fract){ 1, modes[i].rate_hz };
            return 0;
        }
    return fails(EINVAL);
}

static int tell_format(struct v4l2_format *format)
{
    const struct mode *mode = &modes[mode_index];
    memset(&format->fmt, 0, sizeof format->fmt);
    format->fmt.pix.width = mode->width;
    format->fmt.pix.height = mode->height;
    format->fmt.pix.pixelformat = mode->layout;
    format->fmt.pix.sizeimage = frame_bytes(mode);
    format->fmt.pix.field = V4L2_FIELD_NONE;
    return 0;
}

/* Takes the mode that was asked for; a size or layout that is not there leaves the mode. */
static int set_format(struct v4l2_format *format)
{
    if (is_busy)
        return fails(EBUSY);
    for (unsigned i = 0; i < n_modes; i++)
        if (modes[i].layout == format->fmt.pix.pixelformat
            && modes[i].width == format->fmt.pix.width
            && modes[i].height == format->fmt.pix.height) {
            mode_index = i;
            break;
        }
    return tell_format(format);
}

static int tell_rate(struct v4l2_streamparm *rate)
{
    memset(&rate->parm, 0, sizeof rate->parm);
    rate->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    rate->parm.capture.timeperframe = (struct v4l2_fract){ 1, modes[mode_index].rate_hz };
    return 0;
}

static int set_rate(struct v4l2_streamparm *rate)
{
    struct mode mode = modes[mode_index];
    for (unsigned i = 0; i < n_modes; i++)
        if (modes[i].layout == mode.layout && modes[i].width == mode.width
            && modes[i].height == mode.height
            && modes[i].rate_hz == rate->parm.capture.timeperframe.denominator)
            mode_index = i;
    return tell_rate(rate);
}

static int make_buffers(struct v4l2_requestbuffers *wanted)
{
    if (is_busy)
        return fails(EBUSY);
    if (wanted->memory != V4L2_MEMORY_MMAP)
        return fails(EINVAL);
    if (wanted->count > BUFFERS_MAX)
        wanted->count = BUFFERS_MAX;
    n_buffers = wanted->count;
    n_queued = 0;
    return ftruncate(camera, (off_t)n_buffers * buffer_bytes());
}

static int tell_buffer(struct v4l2_buffer *buffer)
{
    if (buffer->index >= n_buffers)
        return fails(EINVAL);
    buffer->length = frame_bytes(&modes[mode_index]);
    buffer->m.offset = buffer->index * buffer_bytes();
    return 0;
}

static int queue_buffer(const struct v4l2_buffer *buffer)
{
    if (buffer->index >= n_buffers || n_queued == n_buffers)
        return fails(EINVAL);
    queue[n_queued++] = buffer->index;
    return 0;
}

/* Returns whether all bytes came. */
static int take(uint8_t *bytes, size_t n_bytes)
{
    while (n_bytes > 0) {
        ssize_t n = read(STDIN_FILENO, bytes, n_bytes);
        if (n <= 0)
            return 0;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return 1;
}

/* Waits for a frame and puts it into the buffer that waits longest. */
static int give_buffer(struct v4l2_buffer *buffer)
{
    uint8_t size[4];
    if (n_queued == 0)
        return fails(EINVAL);
    if (!take(size, sizeof size)) {
        is_gone = 1;
        return fails(ENODEV);
    }
    uint32_t n_bytes = size[0] | size[1] << 8 | size[2] << 16 | (uint32_t)size[3] << 24;
    uint8_t *bytes = malloc(n_bytes + 1);
    int is_whole = bytes && take(bytes, n_bytes) && n_bytes <= frame_bytes(&modes[mode_index]);
    unsigned index = queue[0];
    if (is_whole)
        is_whole = pwrite(camera, bytes, n_bytes, (off_t)index * buffer_bytes()) == (ssize_t)n_bytes;
    free(bytes);
    if (!is_whole)
        return fails(EIO);
    memmove(queue, queue + 1, --n_queued * sizeof *queue);
    buffer->index = index;
    buffer->bytesused = n_bytes;
    buffer->sequence = n_sent++;
    return 0;
}

static int answer(unsigned long request, void *value)
{
    if (is_gone)
        return fails(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *about = value;
        memset(about, 0, sizeof *about);
        strcpy((char *)about->driver, "culet");
        about->capabilities = about->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: return list_layouts(value);
    case VIDIOC_ENUM_FRAMESIZES: return list_sizes(value);
    case VIDIOC_ENUM_FRAMEINTERVALS: return list_rates(value);
    case VIDIOC_G_FMT: return tell_format(value);
    case VIDIOC_S_FMT: return set_format(value);
    case VIDIOC_G_PARM: return tell_rate(value);
    case VIDIOC_S_PARM: return set_rate(value);
    case VIDIOC_REQBUFS: return make_buffers(value);
    case VIDIOC_QUERYBUF: return tell_buffer(value);
    case VIDIOC_QBUF: return queue_buffer(value);
    case VIDIOC_DQBUF: return give_buffer(value);
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF: return 0;
    default: return fails(ENOTTY);
    }
}

/* The program's packages ask devices by way of this and not of `ioctl`. */
long syscall(long number, ...)
{
    static long (*real_syscall)(long, ...);
    long given[6];
    if (!real_syscall)
        *(void **)&real_syscall = behind("syscall");
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_ioctl && camera >= 0 && (int)given[0] == camera)
        return answer((unsigned long)given[1], (void *)given[2]);
    return real_syscall(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
