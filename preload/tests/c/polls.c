/* A client in plain sockets that waits by a poll of its one descriptor, as libpq does. `polls SCENARIO NAME`; the server
 * echoes. Exits 0 when all is well; else says what was not. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                                              \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, strerror(errno));                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static const char *name;

static int dial(void) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
    CHECK(getaddrinfo(name, "5432", &hints, &found) == 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, found->ai_addr, found->ai_addrlen) == 0);
    freeaddrinfo(found);
    return fd;
}

/* The ways to poll one descriptor: poll, ppoll, their fortified twins, and the kernel's own. */
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
enum { WAYS = 6 };

static int wait_by(int way, struct pollfd *p, int ms) {
    struct timespec limit = {ms / 1000, ms % 1000 * 1000000L}, *time = ms < 0 ? NULL : &limit;
    sigset_t none;
    sigemptyset(&none);
    switch (way) {
    case 0: return poll(p, 1, ms);
    case 1: return ppoll(p, 1, time, NULL);
    case 2: return ppoll(p, 1, time, &none);
    case 3: return __poll_chk(p, 1, ms, sizeof *p);
    case 4: return __ppoll_chk(p, 1, time, NULL, sizeof *p);
    default: return syscall(SYS_ppoll, p, 1, time, NULL, 0);
    }
}

static unsigned long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ul + t.tv_nsec / 1000;
}

static void ask(int fd, const char *text) { CHECK(send(fd, text, strlen(text), 0) == (ssize_t)strlen(text)); }

/* Reads `text`, polling before each read; `seed` picks the ways, the limits and the lengths. */
static void answer(int fd, const char *text, unsigned seed) {
    for (size_t at = 0, all = strlen(text); at < all;) {
        struct pollfd p = {fd, seed % 3 ? POLLIN : POLLIN | POLLERR | POLLPRI, 77};
        CHECK(wait_by(seed % WAYS, &p, seed % 2 ? -1 : 30000) == 1);
        CHECK(p.revents == POLLIN);
        char back[64];
        ssize_t n = recv(fd, back, 1 + seed % sizeof back, MSG_DONTWAIT);
        CHECK(n > 0 && at + n <= all && memcmp(back, text + at, n) == 0);
        at += n, seed = seed * 1103515245u + 12345u;
    }
    struct pollfd p = {fd, POLLIN, 77};
    CHECK(wait_by(seed % WAYS, &p, 0) == 0 && p.revents == 0);
}

/* Questions and answers, by every way, partly read, and with pauses in which the watching changes hands. */
static void answers(void) {
    int fd = dial();
    for (unsigned i = 0; i < 4000; i++) {
        char text[80];
        snprintf(text, sizeof text, "question %u and some more of it: %.*s", i, (int)(i % 30), "..............................");
        ask(fd, text);
        if (i % 500 == 7) usleep(5000);
        answer(fd, text, i * 2654435761u);
        if (i % 300 == 5) usleep(3000);
    }
    CHECK(shutdown(fd, SHUT_WR) == 0);
    struct pollfd p = {fd, POLLIN | POLLRDHUP, 0};
    char c;
    CHECK(poll(&p, 1, 30000) == 1 && p.revents & POLLIN && p.revents & POLLRDHUP);
    CHECK(recv(fd, &c, 1, 0) == 0);
    CHECK(close(fd) == 0);
    CHECK(poll(&p, 1, -1) == 1 && p.revents == POLLNVAL);
}

/* Time limits: never early, and what is impossible is refused. */
static void limits(void) {
    int fd = dial();
    for (int round = 0; round < 3; round++)
        for (int way = 0; way < WAYS; way++)
            for (int ms = 0; ms <= 20; ms += ms ? 19 : 1) {
                struct pollfd p = {fd, POLLIN, 77};
                unsigned long start = now();
                CHECK(wait_by(way, &p, ms) == 0 && p.revents == 0);
                CHECK(now() - start >= ms * 1000ul);
            }
    struct pollfd p = {fd, POLLIN, 77}, two[2] = {{fd, POLLIN, 0}, {-1, POLLIN, 0}};
    struct timespec wrong = {0, 1000000000}, negative = {-1, 0}, shortest = {0, 1};
    CHECK(ppoll(&p, 1, &wrong, NULL) == -1 && errno == EINVAL);
    CHECK(ppoll(&p, 1, &negative, NULL) == -1 && errno == EINVAL);
    CHECK(ppoll(&p, 1, &shortest, NULL) == 0 && shortest.tv_nsec == 1);
    CHECK(poll(two, 2, 1) == 0);
    struct pollfd *volatile nowhere = NULL;
    CHECK(poll(nowhere, 1, 1) == -1 && errno == EFAULT);
    p.events = POLLIN | POLLOUT;
    CHECK(poll(&p, 1, -1) == 1 && p.revents == POLLOUT);
    p.events = 0;
    CHECK(poll(&p, 1, 1) == 0);
    ask(fd, "still there");
    answer(fd, "still there", 5);
}

static sigjmp_buf out;
static volatile sig_atomic_t jump, handled;

static void on_signal(int number) {
    (void)number;
    handled++;
    if (jump) siglongjmp(out, 1);
}

static void *wait_for_ever(void *fd) {
    struct pollfd p = {*(int *)fd, POLLIN, 0};
    poll(&p, 1, -1);
    return NULL;
}

/* Signals and cancellation end a poll that sleeps, and leave the connection as it was. */
static void interruptions(void) {
    int fd = dial();
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec soon = {.it_interval = {0, 20000000}, .it_value = {0, 20000000}}, off = {0};
    for (unsigned i = 0; i < 4 * WAYS; i++) {
        struct pollfd p = {fd, POLLIN, 0};
        CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
        CHECK(wait_by(i % WAYS, &p, i & 1 ? -1 : 30000) == -1 && errno == EINTR);
        CHECK(timer_settime(timer, 0, &off, NULL) == 0 && handled);
        ask(fd, "after a handler"), answer(fd, "after a handler", i);
        /* Out of the handler by a jump, as shells of programs do. */
        jump = 1, handled = 0;
        CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
        if (sigsetjmp(out, 1) == 0) wait_by(i % WAYS, &p, -1);
        CHECK(timer_settime(timer, 0, &off, NULL) == 0 && handled);
        jump = 0;
        ask(fd, "after a jump"), answer(fd, "after a jump", i);
    }
    /* The same in the middle of what polls do before they sleep. */
    soon.it_interval.tv_nsec = soon.it_value.tv_nsec = 300000;
    CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
    /* On a slow machine a shorter time of it will do. */
    time_t enough = time(NULL) + 10;
    for (volatile unsigned i = 0; i < 10000 && time(NULL) < enough; i++) {
        struct pollfd p = {fd, POLLIN, 0};
        ask(fd, "before jumps");
        sigsetjmp(out, 1);
        jump = 1;
        wait_by(i % 2, &p, -1);
        jump = 0;
        char back[12];
        CHECK(recv(fd, back, sizeof back, MSG_WAITALL) == sizeof back && memcmp(back, "before jumps", 12) == 0);
    }
    CHECK(timer_settime(timer, 0, &off, NULL) == 0);
    /* A signal that waits for the mask of ppoll. */
    sigset_t usr1, none;
    sigemptyset(&none), sigemptyset(&usr1), sigaddset(&usr1, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0 && raise(SIGUSR1) == 0);
    struct pollfd p = {fd, POLLIN, 0};
    handled = 0;
    CHECK(ppoll(&p, 1, NULL, &none) == -1 && errno == EINTR && handled == 1);
    CHECK(sigprocmask(SIG_UNBLOCK, &usr1, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, wait_for_ever, &fd) == 0);
        usleep(i * 200);
        CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        ask(fd, "after a cancellation"), answer(fd, "after a cancellation", i);
    }
    /* Ready without our help: a thread polls, another one asks. */
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, wait_for_ever, &fd) == 0);
        if (i % 2) usleep(i * 10);
        ask(fd, "asked by another");
        CHECK(pthread_join(thread, NULL) == 0);
        answer(fd, "asked by another", i);
    }
}

/* Parent and child of a fork poll in turn. */
static void processes(void) {
    int fd = dial();
    for (unsigned i = 0; i < 20; i++) {
        ask(fd, "the parent's"), answer(fd, "the parent's", i);
        pid_t pid = fork();
        if (pid == 0) {
            struct pollfd p = {fd, POLLIN, 0};
            CHECK(poll(&p, 1, i % 3) == 0);
            for (unsigned k = 0; k < 20; k++) ask(fd, "the child's"), answer(fd, "the child's", i + k);
            _exit(0);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {{"answers", answers}, {"limits", limits}, {"interruptions", interruptions}, {"processes", processes}};
    if (argc != 3) return 2;
    alarm(55); /* never hang: the test says what did not end */
    name = argv[2];
    for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    return 2;
}
