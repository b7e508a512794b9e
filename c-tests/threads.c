/* threads NAME: many threads with a connection each, one connection shared by a sender and a receiver, and calls that
 * wait while another thread shuts down or closes. */
#include <pthread.h>

#include "harness.h"

enum { THREADS = 8, ROUNDS = 100 };
static const char *name;

static void *own_connection(void *number) {
    uint64_t offset = (uint64_t)(size_t)number << 32;
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    for (int i = 0; i < ROUNDS; i++) {
        size_t len = 1 + (offset * 7919 + (uint64_t)i * 104729) % 8192;
        echo_once(fd, len, offset);
        offset += len;
    }
    CHECK(net_close(fd) == 0);
    return NULL;
}

static void *waits_in_recv(void *fd) {
    char c;
    errno = 0;
    ssize_t n = net_recv(*(int *)fd, &c, 1, 0);
    return (void *)(n == 0 ? (size_t)0 : (size_t)errno);
}

static void *waits_in_poll(void *fd) {
    return (void *)(size_t)wait_ready(*(int *)fd, POLLIN);
}

int main(int argc, char **argv) {
    watchdog();
    name = argument(argc, argv, 1, "NAME");
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, own_connection, (void *)i) == 0);
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    say("%d threads with a connection each, %d echoes each", THREADS, ROUNDS);

    void *result;
    int fd = net_connect(name, 0);
    CHECK(fd >= 0);
    CHECK(pthread_create(&threads[0], NULL, waits_in_recv, &fd) == 0);
    usleep(100000); /* most probably it waits by now; right either way */
    CHECK(net_shutdown(fd, SHUT_RD) == 0);
    CHECK(pthread_join(threads[0], &result) == 0 && result == NULL);
    CHECK(net_close(fd) == 0);
    say("shutdown ended another thread's recv");

    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    CHECK(pthread_create(&threads[0], NULL, waits_in_poll, &fd) == 0);
    usleep(100000);
    CHECK(net_shutdown(fd, SHUT_RDWR) == 0);
    CHECK(pthread_join(threads[0], &result) == 0 && ((size_t)result & POLLIN));
    CHECK(net_close(fd) == 0);
    say("shutdown ended another thread's poll");

#ifndef PLAIN_SOCKETS
    /* close(2) of a socket that another thread reads leaves that thread alone; vianet_close ends its call. */
    fd = net_connect(name, 0);
    CHECK(fd >= 0);
    int copy = fd; /* the thread must not read the variable after the close */
    CHECK(pthread_create(&threads[0], NULL, waits_in_recv, &copy) == 0);
    usleep(100000);
    CHECK(net_close(fd) == 0);
    CHECK(pthread_join(threads[0], &result) == 0 && (size_t)result == EBADF);
    say("close ended another thread's recv");
#endif
    return 0;
}
