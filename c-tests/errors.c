/* errors: every error of the table in docs/protocol.md but EACCES, which no node gives, and EINPROGRESS, which connect(2)
 * gives under the preload library. The configuration ($VIANET_CONFIG) has the clusters that are named below; who runs this
 * prepares them:
 *   test      works, serves `echo`, and `resets`, which resets when something is sent; on its way over tcp, a packet with
 *             "spoil this packet" in it comes back with a header that cannot be
 *   nowhere   nobody listens                silent   everything is filtered
 *   passive   only the passive node         forged   another key is pinned    unsigned a foreign browser, key pinned
 *   strict    a foreign browser, no `plain` allowed
 *   refused   a foreign browser that names a port where nobody listens */
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "harness.h"

#define FAILS(call, expected) fails_((errno = 0, (long)(call)), (expected), #call, __LINE__)

static void fails_(long result, int expected, const char *call, int line) {
    int saved = errno;
    char text[512];
    size_t len = vianet_last_error(text, sizeof text);
    say("%s: %s: %s", call, strerror(saved), text);
    if (result != -1 || saved != expected) {
        fprintf(stderr, "errors.c:%d: %s gave %ld and errno %d (%s), must be -1 and %d (%s)\n", line, call, result, saved,
                strerror(saved), expected, strerror(expected));
        _exit(1);
    }
    CHECK(len > 0 && strlen(text) > 0); /* there is always a text */
}

static int connect_over(const char *name, uint32_t transports, uint32_t flags, uint32_t deadline_ms) {
    struct vianet_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.flags = flags;
    options.deadline_ms = deadline_ms;
    options.transports = transports;
    return vianet_connect(name, &options);
}

static int connect_to(const char *name, uint32_t flags, uint32_t deadline_ms) {
    return connect_over(name, 0, flags, deadline_ms);
}

static void on_alarm(int signal) { (void)signal; }

static void arguments(int fd) {
    char c = 0;
    FAILS(vianet_connect(NULL, NULL), EFAULT);
    FAILS(vianet_resolve("test\\echo", NULL), EFAULT);
    FAILS(vianet_info(fd, NULL), EFAULT);
    FAILS(vianet_send(fd, NULL, 1, 0), EFAULT);
    FAILS(vianet_recv(fd, NULL, 1, 0), EFAULT);
    FAILS(vianet_send(fd, &c, (size_t)-1, 0), EINVAL);
    FAILS(vianet_shutdown(fd, 17), EINVAL);
    FAILS(vianet_set_log_callback(99, NULL, NULL), EINVAL);

    /* Zero lengths are no errors. */
    CHECK(vianet_send(fd, NULL, 0, 0) == 0);
    CHECK(vianet_recv(fd, NULL, 0, MSG_DONTWAIT) == 0);
    CHECK(vianet_last_error(NULL, 0) > 0);

    /* Structs of other sizes: an older program's, a newer program's, and nonsense. */
    struct {
        struct vianet_options known;
        uint64_t unknown;
    } newer;
    memset(&newer, 0, sizeof newer);
    newer.known.size = sizeof newer;
    int other = vianet_connect("test\\echo", &newer.known);
    CHECK(other >= 0 && vianet_close(other) == 0);
    newer.unknown = 1;
    FAILS(vianet_connect("test\\echo", &newer.known), EINVAL);
    struct vianet_options options;
    memset(&options, 0, sizeof options);
    FAILS(vianet_connect("test\\echo", &options), EINVAL); /* size 0: forgotten */
    options.size = sizeof options;
    options.flags = 0x8000;
    FAILS(vianet_connect("test\\echo", &options), EINVAL);
    options.flags = 0;
    options.reserved = 1;
    FAILS(vianet_connect("test\\echo", &options), EINVAL);
    options.reserved = 0;
    options.config_file = "/nonexistent/client.toml";
    FAILS(vianet_connect("test\\echo", &options), EINVAL);
    struct vianet_info info;
    memset(&info, 0x55, sizeof info);
    info.size = 24; /* an older program's: the rest must not be touched */
    CHECK(vianet_info(fd, &info) == 0);
    CHECK(info.state == VIANET_STATE_ESTABLISHED && ((unsigned char *)&info)[24] == 0x55);
    info.size = 1;
    FAILS(vianet_info(fd, &info), EINVAL);

    /* Names. */
    char *longest = malloc(10001);
    CHECK(longest != NULL);
    memset(longest, 'x', 10000);
    longest[10000] = 0;
    FAILS(vianet_connect(longest, NULL), ENAMETOOLONG);
    free(longest);
    FAILS(vianet_connect("test\\\xff\xfe", NULL), EILSEQ);
    FAILS(vianet_connect("nosuchcluster\\echo", NULL), ENOENT);
    FAILS(vianet_connect("noclusteratall", NULL), ENOENT);
    say("arguments, structs and names");
}

/* Valgrind and the sanitizers need address space of their own. */
static void out_of_memory(void) {
#ifndef __SANITIZE_ADDRESS__
    if (getenv("UNDER_VALGRIND")) return;
    struct rlimit limit, none;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    /* What malloc has already must do for the small things: only new pages are refused. */
    free(malloc(64 << 10));
    none = limit;
    none.rlim_cur = 1 << 20;
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    FAILS(vianet_connect("test\\echo", NULL), ENOMEM);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    say("no memory");
#endif
}

/* What a receiver is told it is told again; a sender whose connection is over may as well have shut it. */
static void over(const char *name, uint32_t transports, const char *last, int expected) {
    char c;
    int fd = connect_over(name, transports, 0, 0);
    CHECK(fd >= 0);
    CHECK(vianet_send(fd, last, strlen(last), 0) == (ssize_t)strlen(last));
    FAILS(vianet_recv(fd, &c, 1, 0), expected);
    FAILS(vianet_recv(fd, &c, 1, 0), expected);
    FAILS(vianet_send(fd, "x", 1, 0), EPIPE);
    FAILS(vianet_shutdown(fd, SHUT_WR), ENOTCONN);
    CHECK(vianet_close(fd) == 0);
}

static void losses(void) {
    over("test\\resets", 1 << VIANET_TRANSPORT_SHM, "x", ECONNRESET);
    over("test\\resets", 1 << VIANET_TRANSPORT_TCP, "x", ECONNRESET);
    over("test\\echo", 1 << VIANET_TRANSPORT_TCP, "spoil this packet", EPROTO);
    say("connections that ended");
}

static void descriptors(int fd) {
    char c;
    struct vianet_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    static const int bad[] = {-1, 1000000, 1023};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(vianet_send(bad[i], "x", 1, 0), EBADF);
        FAILS(vianet_recv(bad[i], &c, 1, 0), EBADF);
        FAILS(vianet_shutdown(bad[i], SHUT_WR), EBADF);
        FAILS(vianet_info(bad[i], &info), EBADF);
        FAILS(vianet_close(bad[i]), EBADF);
    }
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    FAILS(vianet_send(pipes[1], "x", 1, 0), ENOTSOCK);
    FAILS(vianet_recv(pipes[0], &c, 1, 0), ENOTSOCK);
    FAILS(vianet_info(pipes[0], &info), ENOTSOCK);
    FAILS(vianet_close(pipes[0]), ENOTSOCK);
    CHECK(close(pipes[0]) == 0 && close(pipes[1]) == 0);

    FAILS(vianet_recv(fd, &c, 1, MSG_DONTWAIT), EAGAIN);
    set_nonblocking(fd, 1);
    FAILS(vianet_recv(fd, &c, 1, 0), EAGAIN);
    set_nonblocking(fd, 0);

    struct timeval soon = {0, 50000}, never = {0, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
    FAILS(vianet_recv(fd, &c, 1, 0), EAGAIN);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &never, sizeof never) == 0);
    say("SO_RCVTIMEO ended a recv");

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm; /* without SA_RESTART */
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pid_t killer = fork();
    CHECK(killer >= 0);
    if (killer == 0) {
        for (int i = 0; i < 600 && kill(getppid(), SIGUSR1) == 0; i++) usleep(50000);
        _exit(0);
    }
    FAILS(vianet_recv(fd, &c, 1, 0), EINTR);
    CHECK(kill(killer, SIGKILL) == 0);
    say("a signal ended a recv");

    out_of_memory();
    /* Valgrind plays the limit itself, and then lets nobody close what is open above it. */
    if (!getenv("UNDER_VALGRIND")) {
        struct rlimit limit, none;
        CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        none = limit;
        none.rlim_cur = 3;
        CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
        FAILS(vianet_connect("test\\echo", NULL), EMFILE);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    echo_once(fd, 100, 0); /* nothing was lost on the other connection */

    CHECK(vianet_shutdown(fd, SHUT_WR) == 0);
    FAILS(vianet_send(fd, "x", 1, 0), EPIPE);
    say("descriptors");
}

/* Again while nothing was heard in time: the machine may be busy. */
static int connect_heard(const char *name) {
    int fd = -1;
    for (int i = 0; i < 20; i++) {
        fd = connect_to(name, 0, 500);
        if (fd >= 0 || errno != EHOSTUNREACH) break;
    }
    return fd;
}

static void clusters(void) {
    FAILS(connect_to("test\\nosuchserver", 0, 0), EADDRNOTAVAIL);
    FAILS(connect_to("nowhere\\echo", 0, 500), EHOSTUNREACH);
    FAILS(connect_to("silent\\echo", 0, 500), EHOSTUNREACH);
    FAILS(connect_heard("passive\\echo"), ETIMEDOUT);
    FAILS(connect_heard("forged\\echo"), EKEYREJECTED);
    FAILS(connect_to("unsigned\\sales", 0, 500), EHOSTUNREACH); /* with a key, SSRP is not even asked */
    FAILS(connect_heard("strict\\sales"), EPROTONOSUPPORT);
    FAILS(connect_heard("refused\\sales"), ECONNREFUSED);
    struct vianet_answer answer;
    memset(&answer, 0, sizeof answer);
    answer.size = sizeof answer;
    FAILS(vianet_resolve("test\\nosuchserver", &answer), EADDRNOTAVAIL);
    CHECK(vianet_resolve("echo.test", &answer) == 0);
    CHECK(answer.role == VIANET_ROLE_ACTIVE && answer.authentic == 1 && answer.endpoint_count >= 2);
    say("clusters");

    int waiting = connect_to("silent\\echo", VIANET_NONBLOCK, 60000);
    CHECK(waiting >= 0);
    FAILS(vianet_shutdown(waiting, SHUT_WR), ENOTCONN);
    FAILS(vianet_send(waiting, "x", 1, 0), EAGAIN);
    CHECK(vianet_close(waiting) == 0);

    /* A failed non-blocking connect, as TCP shows it. */
    int fd = connect_to("nowhere\\echo", VIANET_NONBLOCK, 500);
    CHECK(fd >= 0);
    short events = wait_ready(fd, POLLIN | POLLOUT);
    CHECK((events & POLLOUT) && (events & POLLERR || events & POLLHUP));
    struct vianet_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    CHECK(vianet_info(fd, &info) == 0);
    CHECK(info.state == VIANET_STATE_LOST && info.error == EHOSTUNREACH);
    errno = 0;
    CHECK(vianet_send(fd, "x", 1, 0) == -1 && errno != 0 && errno != EAGAIN);
    CHECK(vianet_close(fd) == 0);
    say("a failed non-blocking connect tells by poll and by vianet_info");
}

int main(void) {
    watchdog();
    int fd = connect_to("test\\echo", 0, 0);
    CHECK(fd >= 0);
    arguments(fd);
    descriptors(fd);
    CHECK(vianet_close(fd) == 0);
    losses();
    clusters();
    return 0;
}
