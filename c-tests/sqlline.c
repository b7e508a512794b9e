/* sqlline NAME [LIBRARY]: the client application of the claims: it holds one connection to a server with a line protocol,
 * opened by name, and never closes it. Every line of standard input is sent; every answer line is printed.
 *
 * \info prints what the connection is like. Events are printed as `EVENT kind node generation`. When a call fails it
 * prints `LOST errno text`, connects again by the same name and prints `CONNECTED`; the line is not sent again. */
#include <pthread.h>
#include <signal.h>

#include "harness.h"

static const char *name;
static int fd;

#ifndef PLAIN_SOCKETS
static pthread_t own;

/* On the library's own thread, which takes none of the application's signals. */
static void check_thread(void) {
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGWINCH};
    sigset_t blocked;
    CHECK(!pthread_equal(pthread_self(), own));
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) CHECK(sigismember(&blocked, signals[i]) == 1);
}

static void on_event(const struct vianet_event *event, void *context) {
    check_thread();
    static const char *kinds[] = {"?", "failover-begun", "failover-ended", "lost", "resumed"};
    CHECK(context == &fd);
    CHECK(event->kind >= 1 && event->kind <= 4 && event->size >= sizeof *event);
    say("EVENT %s %s %llu", kinds[event->kind], event->node, (unsigned long long)event->generation);
}

static void print_info(void) {
    struct vianet_info info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    CHECK(vianet_info_call(fd, &info) == 0);
    say("INFO fd=%d state=%u transport=%u node=%s generation=%llu failovers=%llu resumptions=%llu movable=%u%s", fd,
        info.state, info.transport, info.node, (unsigned long long)info.generation,
        (unsigned long long)info.failovers, (unsigned long long)info.resumptions, info.movable, info.why_not_movable);
}
#else
static void print_info(void) { say("INFO fd=%d", fd); }
#endif

static void connect_by_name(void) {
    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    say("CONNECTED %d", fd);
}

static int lost(void) {
    int saved = errno;
    char text[256] = "";
    net_last_error(text, sizeof text);
    say("LOST %d %s", saved, text);
    CHECK(net_close(fd) == 0);
    connect_by_name();
    return 0;
}

/* One line out, one line back; 0 if the connection was lost in between. */
static int ask(const char *line, size_t len) {
    while (len > 0) {
        ssize_t n = net_send(fd, line, len, 0);
        if (n < 0) return lost();
        line += n;
        len -= (size_t)n;
    }
    /* The answer is printed when it is whole, so that an event cannot stand in its middle. */
    static char answer[1 << 20];
    for (size_t got = 0;;) {
        CHECK(got < sizeof answer);
        ssize_t n = net_recv(fd, answer + got, sizeof answer - got, 0);
        if (n <= 0) {
            if (n == 0) errno = 0;
            return lost();
        }
        got += (size_t)n;
        if (answer[got - 1] != '\n') continue;
        say("%.*s", (int)got - 1, answer);
        return 1;
    }
}

int main(int argc, char **argv) {
    watchdog();
    name = argument(argc, argv, 1, "NAME [LIBRARY]");
#ifdef OPEN_BY_HAND
    open_library(argument(argc, argv, 2, "NAME LIBRARY"));
#endif
#ifndef PLAIN_SOCKETS
    own = pthread_self();
    CHECK(vianet_set_event_callback(on_event, &fd) == 0);
    say("VERSION %s", vianet_version());
#endif
    connect_by_name();
    char *line = NULL;
    size_t size = 0;
    for (ssize_t len; (len = getline(&line, &size, stdin)) > 0;) {
        if (strcmp(line, "\\info\n") == 0) {
            print_info();
        } else {
            ask(line, (size_t)len);
        }
    }
    free(line);
    return 0;
}
