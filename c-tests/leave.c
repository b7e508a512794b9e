/* leave NAME BYTES: sends BYTES and returns from main at once, without a close. */
#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME BYTES");
    size_t total = strtoull(argument(argc, argv, 2, "NAME BYTES"), NULL, 10);
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    unsigned char *data = malloc(total);
    CHECK(data != NULL);
    stream_fill(data, total, 0);
    send_all(fd, data, total);
    free(data);
    return 0;
}
