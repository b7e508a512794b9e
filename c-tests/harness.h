/* What the test programs share: say, check, a watchdog, a stream of bytes that can be verified at any offset, and one
 * set of calls that is either vianet's (default) or plain sockets' (-DPLAIN_SOCKETS, under the preload library).
 *
 * A program prints what it does, exits 0 when all is well, and non-zero at the first thing that is not. */
#ifndef HARNESS_H
#define HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* One whole line, also when several threads speak: callbacks come on a thread of the library. */
static inline void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    flockfile(stdout);
    vprintf(format, args);
    putchar_unlocked('\n');
    fflush(stdout);
    funlockfile(stdout);
    va_end(args);
}

/* The condition must hold; otherwise the program says what did not, and ends. */
#define CHECK(condition) check_((condition), #condition, __FILE__, __LINE__)

#ifdef PLAIN_SOCKETS

#include <netdb.h>
#include <sys/ioctl.h>

#define net_send(fd, data, len, flags) send((fd), (data), (len), (flags) | MSG_NOSIGNAL)
#define net_recv recv
#define net_shutdown shutdown
#define net_close close
static inline void net_last_error(char *text, size_t size) { snprintf(text, size, "%s", strerror(errno)); }

/* A socket and the address to connect it to, as every client does it. `server.cluster` is the host's name. */
static inline int net_socket(const char *name, int nonblocking, struct sockaddr_storage *to, socklen_t *len) {
    struct addrinfo hints = {0}, *found = NULL;
    hints.ai_socktype = SOCK_STREAM;
    int err = getaddrinfo(name, "5432", &hints, &found);
    if (err != 0) {
        fprintf(stderr, "getaddrinfo(%s): %s\n", name, gai_strerror(err));
        exit(1);
    }
    memcpy(to, found->ai_addr, found->ai_addrlen);
    *len = found->ai_addrlen;
    int fd = socket(found->ai_family, SOCK_STREAM | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    freeaddrinfo(found);
    return fd;
}

static inline int net_connect(const char *name, int nonblocking) {
    struct sockaddr_storage to;
    socklen_t len;
    int fd = net_socket(name, nonblocking, &to, &len);
    if (connect(fd, (struct sockaddr *)&to, len) != 0 && !(nonblocking && errno == EINPROGRESS)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

#else /* vianet */

#include "vianet.h"

#include "byhand.h"

#define net_send vianet_send
#define net_recv vianet_recv
#define net_shutdown vianet_shutdown
#define net_close vianet_close
#ifdef OPEN_BY_HAND
static inline void net_last_error(char *text, size_t size) { snprintf(text, size, "-"); }
#else
static inline void net_last_error(char *text, size_t size) { vianet_last_error(text, size); }
#endif

/* The library's log, in lines like the preload library's, appended to the file $VIANET_DEBUG. */
static inline void log_line_(int level, const char *module, const char *text, void *file) {
    static const char *levels[] = {"?", "Error", "Warn", "Info", "Debug"};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf((FILE *)file, "%02d.%03d %d %s %s: %s\n", (int)(now.tv_sec % 60), (int)(now.tv_nsec / 1000000), (int)getpid(),
            levels[level], module, text);
    fflush((FILE *)file);
}

static inline void log_to_file_(void) {
    static FILE *file;
    const char *path = getenv("VIANET_DEBUG");
    if (file || !path || !(file = fopen(path, "a"))) return;
    vianet_set_log_callback(VIANET_LOG_DEBUG, log_line_, file);
}

static inline int net_connect(const char *name, int nonblocking) {
    log_to_file_();
    struct vianet_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.flags = nonblocking ? VIANET_NONBLOCK : 0;
    return vianet_connect(name, &options);
}

#endif

static inline void check_(int ok, const char *what, const char *file, int line) {
    if (ok) return;
    int saved = errno;
    char text[512] = "";
    net_last_error(text, sizeof text);
    fprintf(stderr, "%s:%d: does not hold: %s\n  errno %d (%s)\n  last error: %s\n", file, line, what, saved,
            strerror(saved), text);
    fflush(stdout);
    _exit(1);
}

/* Argument `n`, or the program says how it is called. */
static inline const char *argument(int argc, char **argv, int n, const char *usage) {
    if (n >= argc) {
        fprintf(stderr, "usage: %s %s\n", argv[0], usage);
        exit(2);
    }
    return argv[n];
}

/* Ends a program that hangs. The limit means "never", not "how fast". */
static inline void watchdog(void) {
    const char *seconds = getenv("TEST_SECONDS");
    alarm(seconds ? (unsigned)atoi(seconds) : 300);
}

/* Byte `n` of the test stream; neighbours differ, and so do the same places of neighbouring blocks. */
static inline unsigned char stream_byte(uint64_t n) { return (unsigned char)((n * 0x9E3779B97F4A7C15ull) >> 56); }

static inline void stream_fill(unsigned char *data, size_t len, uint64_t offset) {
    for (size_t i = 0; i < len; i++) data[i] = stream_byte(offset + i);
}

/* All bytes are those of the stream from `offset` on; names the first that is not. */
static inline void stream_verify(const unsigned char *data, size_t len, uint64_t offset) {
    for (size_t i = 0; i < len; i++) {
        if (data[i] != stream_byte(offset + i)) {
            fprintf(stderr, "stream: byte %llu is 0x%02x, must be 0x%02x\n", (unsigned long long)(offset + i), data[i],
                    stream_byte(offset + i));
            _exit(1);
        }
    }
}

/* FNV-1a over what was received. */
static inline uint64_t checksum(uint64_t sum, const unsigned char *data, size_t len) {
    for (size_t i = 0; i < len; i++) sum = (sum ^ data[i]) * 0x100000001B3ull;
    return sum;
}
#define CHECKSUM_START 0xCBF29CE484222325ull

static inline void send_all(int fd, const unsigned char *data, size_t len) {
    while (len > 0) {
        ssize_t n = net_send(fd, data, len, 0);
        if (n < 0 && errno == EINTR) continue;
        CHECK(n > 0);
        data += n;
        len -= (size_t)n;
    }
}

static inline void recv_all(int fd, unsigned char *data, size_t len) {
    while (len > 0) {
        ssize_t n = net_recv(fd, data, len, 0);
        if (n < 0 && errno == EINTR) continue;
        CHECK(n > 0);
        data += n;
        len -= (size_t)n;
    }
}

/* Sends `len` bytes of the stream from `offset` on and wants them back. At most what the path holds: 64 KiB. */
static inline void echo_once(int fd, size_t len, uint64_t offset) {
    unsigned char *out = malloc(len), *in = malloc(len);
    CHECK(out && in);
    stream_fill(out, len, offset);
    send_all(fd, out, len);
    recv_all(fd, in, len);
    stream_verify(in, len, offset);
    free(out);
    free(in);
}

/* The kernel's word: may this be received or sent now? */
static inline short ready_now(int fd, short events) {
    struct pollfd p = {fd, events, 0};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}

/* Waits for the kernel's word. */
static inline short wait_ready(int fd, short events) {
    struct pollfd p = {fd, events, 0};
    int n;
    while ((n = poll(&p, 1, -1)) < 0 && errno == EINTR) {
    }
    CHECK(n == 1);
    return p.revents;
}

static inline void set_nonblocking(int fd, int on) {
    int flags = fcntl(fd, F_GETFL);
    CHECK(flags >= 0);
    CHECK(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0);
}

#endif
