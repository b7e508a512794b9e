/* echo NAME: blocking calls of every size, peeking, waiting for all, half-close, end of stream. */
#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME");
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    say("connected to %s: descriptor %d", name, fd);
#ifndef PLAIN_SOCKETS
    struct vianet_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    CHECK(vianet_info(fd, &info) == 0);
    say("transport %u node %s generation %llu (%s)", info.transport, info.node, (unsigned long long)info.generation,
        info.why_not_better);
    CHECK(info.state == VIANET_STATE_ESTABLISHED);
    CHECK(info.warm == 0 && info.last_failover_warm == 0 && strcmp(info.why_not_warm, "off") == 0);
#endif

    static const size_t sizes[] = {1, 2, 3, 7, 8, 64, 255, 4095, 4096, 4097, 16384, 65536};
    uint64_t offset = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        echo_once(fd, sizes[i], offset);
        offset += sizes[i];
    }
    say("echoed %llu bytes in %zu sizes", (unsigned long long)offset, sizeof sizes / sizeof *sizes);

    CHECK(net_send(fd, "", 0, 0) == 0);
    CHECK(ready_now(fd, POLLIN) == 0);
    errno = 0;
    char c;
    CHECK(net_recv(fd, &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    say("nothing there: not readable, EAGAIN");

    CHECK(net_send(fd, "hello, world", 12, 0) == 12);
    char text[16];
    CHECK(net_recv(fd, text, 12, MSG_WAITALL | MSG_PEEK) >= 1);
    CHECK(net_recv(fd, text, 12, MSG_WAITALL) == 12);
    CHECK(memcmp(text, "hello, world", 12) == 0);
    say("peeked and waited for all");

    /* Tiny reads, as every database driver makes them before a message's body. */
    CHECK(net_send(fd, "abcdefgh", 8, 0) == 8);
    for (int i = 0; i < 8; i++) {
        CHECK(wait_ready(fd, POLLIN) & POLLIN);
        CHECK(net_recv(fd, &c, 1, MSG_DONTWAIT) == 1 && c == "abcdefgh"[i]);
    }
    CHECK(ready_now(fd, POLLIN) == 0);
    say("read byte by byte; poll was right each time");

    CHECK(net_send(fd, "last words", 10, 0) == 10);
    CHECK(net_shutdown(fd, SHUT_WR) == 0);
    errno = 0;
    CHECK(net_send(fd, "x", 1, 0) == -1 && errno == EPIPE);
    recv_all(fd, (unsigned char *)text, 10);
    CHECK(memcmp(text, "last words", 10) == 0);
    CHECK(net_recv(fd, text, sizeof text, 0) == 0);
    CHECK(wait_ready(fd, POLLIN) & POLLIN);
    CHECK(net_recv(fd, text, sizeof text, 0) == 0);
    say("half-close: the other direction went on until its end");
    CHECK(net_close(fd) == 0);
    errno = 0;
    CHECK(net_close(fd) == -1 && errno == EBADF);
    say("closed, once");
    return 0;
}
