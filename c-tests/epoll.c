/* epoll NAME BYTES: an echo through edge-triggered epoll(7), then level-triggered one-shots, with a timer-like eventfd
 * in the same set. Plain sockets register before they connect; vianet's descriptor comes out of connect. */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "harness.h"

static int set, fd;
static unsigned char out[30000], in[20000];
static uint64_t sent, received;

static void watch(int op, uint32_t events) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = events;
    event.data.u64 = 0x1122334455667788ull;
    CHECK(epoll_ctl(set, op, fd, &event) == 0);
}

/* Sends until the descriptor is full: an edge comes only after that. */
static void send_until_full(uint64_t total) {
    while (sent < total) {
        size_t len = total - sent < sizeof out ? (size_t)(total - sent) : sizeof out;
        stream_fill(out, len, sent);
        ssize_t n = net_send(fd, out, len, 0);
        if (n < 0) {
            CHECK(errno == EAGAIN);
            return;
        }
        sent += (uint64_t)n;
        if ((size_t)n < len) return; /* epoll(7): a short count is as good as EAGAIN */
    }
}

/* Receives until a short count, which epoll(7) allows to take for "empty". */
static void receive_until_short(void) {
    for (;;) {
        ssize_t n = net_recv(fd, in, sizeof in, 0);
        if (n < 0) {
            CHECK(errno == EAGAIN);
            return;
        }
        CHECK(n > 0);
        stream_verify(in, (size_t)n, received);
        received += (uint64_t)n;
        if ((size_t)n < sizeof in) return;
    }
}

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME BYTES");
    uint64_t total = strtoull(argument(argc, argv, 2, "NAME BYTES"), NULL, 10);
    set = epoll_create1(EPOLL_CLOEXEC);
    CHECK(set >= 0);
    int other = eventfd(0, EFD_NONBLOCK);
    struct epoll_event also;
    memset(&also, 0, sizeof also);
    also.events = EPOLLIN;
    also.data.u64 = 1;
    CHECK(other >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, other, &also) == 0);
#ifdef PLAIN_SOCKETS
    struct sockaddr_storage to;
    socklen_t len;
    fd = net_socket(name, 1, &to, &len);
    CHECK(fd >= 0);
    watch(EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP);
    CHECK(connect(fd, (struct sockaddr *)&to, len) == -1 && errno == EINPROGRESS);
    say("registered, then connecting");
#else
    fd = net_connect(name, 1);
    CHECK(fd >= 0);
    watch(EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP);
#endif
    struct epoll_event again;
    memset(&again, 0, sizeof again);
    errno = 0;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &again) == -1 && errno == EEXIST);

    uint64_t edges = 0;
    while (received < total) {
        struct epoll_event events[4];
        int n = epoll_wait(set, events, 4, -1);
        if (n < 0 && errno == EINTR) continue;
        CHECK(n >= 1);
        for (int i = 0; i < n; i++) {
            CHECK(events[i].data.u64 == 0x1122334455667788ull);
            CHECK((events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) == 0);
            edges++;
            if (events[i].events & EPOLLOUT) send_until_full(total);
            if (events[i].events & EPOLLIN) receive_until_short();
        }
    }
    CHECK(sent == total && received == total);
    say("%llu bytes on %llu edges", (unsigned long long)total, (unsigned long long)edges);

    for (int round = 0; round < 100; round++) {
        struct epoll_event event;
        watch(EPOLL_CTL_MOD, EPOLLIN | EPOLLONESHOT);
        stream_fill(out, 2, sent);
        CHECK(net_send(fd, out, 2, 0) == 2);
        sent += 2;
        /* Both bytes come, perhaps not together; a one-shot tells once. */
        while (received < sent) {
            CHECK(epoll_wait(set, &event, 1, -1) == 1 && event.events == EPOLLIN);
            CHECK(epoll_wait(set, &event, 1, 0) == 0);
            CHECK(net_recv(fd, in, 1, 0) == 1);
            stream_verify(in, 1, received++);
            /* Level: what is left must be told again when armed again. */
            watch(EPOLL_CTL_MOD, EPOLLIN | EPOLLONESHOT);
        }
    }
    say("one-shots told once, and again when armed again");

    watch(EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    CHECK(net_shutdown(fd, SHUT_WR) == 0);
    struct epoll_event event;
    CHECK(epoll_wait(set, &event, 1, -1) == 1 && (event.events & EPOLLIN));
    CHECK(net_recv(fd, in, 1, 0) == 0);
    say("end of stream seen");
    CHECK(net_close(fd) == 0);
    CHECK(close(other) == 0 && close(set) == 0);
    return 0;
}
