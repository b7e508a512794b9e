/* dup NAME: a connection lives as long as one of its descriptors, whichever it is. */
#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME");
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    int copy = dup(fd);
    CHECK(copy >= 0);
    echo_once(copy, 1000, 0);
    echo_once(fd, 1000, 1000);
    CHECK(net_close(fd) == 0);
    echo_once(copy, 1000, 2000);
    say("the copy went on after the first was closed");

    int high = fcntl(copy, F_DUPFD_CLOEXEC, 100);
    CHECK(high >= 100);
    CHECK(net_close(copy) == 0);
    echo_once(high, 1000, 3000);

    int null = open("/dev/null", O_RDWR);
    CHECK(null >= 0);
    CHECK(dup2(high, null) == null);
    CHECK(net_close(high) == 0);
    echo_once(null, 1000, 4000);
    say("F_DUPFD and dup2 likewise");

    /* The number of a closed one is used again for something else: that must not be taken for ours. */
    CHECK(net_close(null) == 0);
    int stranger = open("/dev/zero", O_RDWR);
    CHECK(stranger >= 0);
    char c;
#ifdef PLAIN_SOCKETS
    CHECK(read(stranger, &c, 1) == 1 && c == 0);
#else
    errno = 0;
    CHECK(vianet_recv(stranger, &c, 1, 0) == -1 && errno == ENOTSOCK);
#endif
    CHECK(close(stranger) == 0);
    say("a number that is used again is not taken for ours");
    return 0;
}
