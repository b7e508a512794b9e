/* stream NAME BYTES [on]: sends BYTES on one thread and wants every one of them back, in order and unchanged, on another;
 * whoever runs it may cut the transport meanwhile. With "on" it goes on sending until standard input ends. */
#include <pthread.h>

#include "harness.h"

enum { CHUNK = 65536 };
static int fd;
static uint64_t total;
static int going_on;

/* Whether there is more to be sent. What was sent in all is then `total`. */
static int more(uint64_t offset) {
    if (!going_on) return offset < total;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (offset < total || poll(&input, 1, 0) == 0) return 1;
    total = offset;
    return 0;
}

static void *sender(void *unused) {
    (void)unused;
    unsigned char *data = malloc(CHUNK);
    CHECK(data != NULL);
    for (uint64_t offset = 0; more(offset);) {
        size_t len = offset < total && total - offset < CHUNK ? (size_t)(total - offset) : CHUNK;
        stream_fill(data, len, offset);
        send_all(fd, data, len);
        offset += len;
    }
    free(data);
    CHECK(net_shutdown(fd, SHUT_WR) == 0);
    return NULL;
}

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME BYTES");
    total = strtoull(argument(argc, argv, 2, "NAME BYTES"), NULL, 10);
    going_on = argc > 3;
    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sender, NULL) == 0);

    unsigned char *data = malloc(CHUNK);
    CHECK(data != NULL);
    uint64_t offset = 0, sum = CHECKSUM_START;
    for (;;) {
        ssize_t n = net_recv(fd, data, CHUNK, 0);
        CHECK(n >= 0);
        if (n == 0) break;
        stream_verify(data, (size_t)n, offset);
        sum = checksum(sum, data, (size_t)n);
        offset += (uint64_t)n;
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(offset == total);
    free(data);
#ifndef PLAIN_SOCKETS
    struct vianet_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    CHECK(vianet_info(fd, &info) == 0);
    say("resumed %llu times, failovers %llu", (unsigned long long)info.resumptions, (unsigned long long)info.failovers);
    CHECK(info.bytes_sent == total && info.bytes_received == total);
#endif
    CHECK(net_close(fd) == 0);
    say("%llu bytes there and back, checksum %016llx", (unsigned long long)total, (unsigned long long)sum);
    return 0;
}
