/* rawreader NAME: a program that knows nothing of vianet is exec'd with the descriptor as its standard input and output
 * and reads true bytes. */
#include <sys/wait.h>

#include "harness.h"

int main(int argc, char **argv) {
    watchdog();
    const char *name = argument(argc, argv, 1, "NAME");
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    enum { LEN = 40000 };
    static unsigned char data[LEN];
    stream_fill(data, LEN, 0);
    int back[2];
    CHECK(pipe(back) == 0);
    CHECK(fcntl(back[0], F_SETFD, FD_CLOEXEC) == 0);
    send_all(fd, data, LEN);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(fd, 0) == 0 && dup2(back[1], 1) == 1);
        unsetenv("LD_PRELOAD");
        char count[16];
        snprintf(count, sizeof count, "%d", LEN);
        execlp("head", "head", "-c", count, (char *)NULL);
        _exit(127);
    }
    CHECK(close(back[1]) == 0);
    size_t got = 0;
    static unsigned char seen[LEN];
    for (ssize_t n; (n = read(back[0], seen + got, LEN - got)) > 0;) got += (size_t)n;
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    say("the exec'd program read %zu bytes", got);
    CHECK(got == LEN);
    stream_verify(seen, LEN, 0);
    CHECK(net_close(fd) == 0);
    say("all of them true");
    return 0;
}
