/* fork NAME [once]: the child uses a connection that the parent made and closes; then the reverse; then both in turn,
 * unless a connection can be handed over only once. */
#include <sys/wait.h>

#include "harness.h"

static void expect_success(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME [once]");
    int once = argc > 2 && strcmp(argv[2], "once") == 0;

    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    echo_once(fd, 1000, 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        watchdog();
        usleep(100000); /* the parent closes first, most probably; right either way */
        for (uint64_t i = 0; i < 50; i++) echo_once(fd, 3000, i * 3000);
        CHECK(net_shutdown(fd, SHUT_WR) == 0);
        char c;
        CHECK(net_recv(fd, &c, 1, 0) == 0);
        CHECK(net_close(fd) == 0);
        _exit(0);
    }
    CHECK(net_close(fd) == 0);
    expect_success(child);
    say("the child used what the parent closed");

    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        watchdog();
        CHECK(net_close(fd) == 0);
        _exit(0);
    }
    expect_success(child);
    for (uint64_t i = 0; i < 50; i++) echo_once(fd, 3000, i * 3000);
    CHECK(net_close(fd) == 0);
    say("the parent used what the child closed");

    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    for (uint64_t i = 0; i < 5 && !once; i++) {
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            watchdog();
            echo_once(fd, 2000, i * 2000);
            _exit(0); /* without a close: the kernel does it, and the parent's copy stays */
        }
        expect_success(child);
        echo_once(fd, 2000, i);
    }
    CHECK(net_close(fd) == 0);
    if (!once) say("parent and children used it in turn");

    /* A connection of its own in the child of a process that already has one. */
    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        watchdog();
        int own = net_connect(name, 0);
        CHECK(own >= 0);
        echo_once(own, 5000, 0);
        CHECK(net_close(own) == 0);
        _exit(0);
    }
    echo_once(fd, 5000, 0);
    expect_success(child);
    CHECK(net_close(fd) == 0);
    say("parent and child each used their own");
    return 0;
}
