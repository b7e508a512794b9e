/* poll NAME BYTES: non-blocking connect and an echo through poll(2), beside an eventfd that ticks.
 * Wherever the kernel says readable or writable, the call must not answer EAGAIN. */
#include <sys/eventfd.h>

#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME BYTES");
    uint64_t total = strtoull(argument(argc, argv, 2, "NAME BYTES"), NULL, 10);
    int fd = net_connect(name, 1);
    CHECK(fd >= 0);
    int ticks = eventfd(0, EFD_NONBLOCK);
    CHECK(ticks >= 0);
    CHECK(wait_ready(fd, POLLOUT) == POLLOUT);
    int error = -1;
    socklen_t size = sizeof error;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
    say("connected without blocking");

    unsigned char *out = malloc(30000), *in = malloc(20000);
    CHECK(out && in);
    uint64_t sent = 0, received = 0, seen = 0, full = 0, empty = 0;
    while (received < total) {
        struct pollfd p[2] = {{fd, (short)(POLLIN | (sent < total ? POLLOUT : 0)), 0}, {ticks, POLLIN, 0}};
        CHECK(poll(p, 2, -1) >= 1);
        CHECK((p[0].revents & (POLLERR | POLLHUP | POLLNVAL)) == 0);
        if (p[1].revents) {
            uint64_t n;
            CHECK(read(ticks, &n, sizeof n) == sizeof n);
            seen += n;
        }
        if (p[0].revents & POLLOUT) {
            size_t len = total - sent < 30000 ? (size_t)(total - sent) : 30000;
            stream_fill(out, len, sent);
            ssize_t n = net_send(fd, out, len, 0);
            CHECK(n > 0);
            full += (size_t)n < len;
            sent += (uint64_t)n;
            uint64_t one = 1;
            CHECK(write(ticks, &one, sizeof one) == sizeof one);
        }
        if (p[0].revents & POLLIN) {
            ssize_t n = net_recv(fd, in, 1 + (size_t)(received % 20000), 0);
            CHECK(n > 0);
            stream_verify(in, (size_t)n, received);
            received += (uint64_t)n;
            /* Every other time until EAGAIN, as libpq does. */
            while (received % 2 == 0 && (n = net_recv(fd, in, 20000, 0)) > 0) {
                stream_verify(in, (size_t)n, received);
                received += (uint64_t)n;
            }
            if (n < 0) {
                CHECK(errno == EAGAIN);
                empty++;
            }
        }
    }
    CHECK(sent == total && received == total && seen > 0);
    CHECK(ready_now(fd, POLLIN) == 0);
    say("%llu bytes through poll; %llu short sends, %llu times drained, %llu ticks beside it", (unsigned long long)total,
        (unsigned long long)full, (unsigned long long)empty, (unsigned long long)seen);
    CHECK(net_shutdown(fd, SHUT_WR) == 0);
    CHECK(wait_ready(fd, POLLIN) & POLLIN);
    CHECK(net_recv(fd, in, 1, 0) == 0);
    free(out);
    free(in);
    CHECK(net_close(fd) == 0);
    CHECK(close(ticks) == 0);
    return 0;
}
