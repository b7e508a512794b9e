/* goodbye NAME: asks, closes, and returns from main at once. */
#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME");
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    unsigned char answer[5];
    send_all(fd, (const unsigned char *)"hello", 5);
    recv_all(fd, answer, 5);
    CHECK(net_close(fd) == 0);
    return 0;
}
