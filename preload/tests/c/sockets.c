/* Ordinary sockets on loopback by every call that is hooked: no name of ours anywhere. Prints what it saw; the test
 * compares the output with and without the library. Built with _FORTIFY_SOURCE, so that lengths that the compiler
 * cannot prove go through the fortified twins. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *what, long result) {
    int e = errno;
    printf("%s: %ld%s%s\n", what, result, result < 0 ? " " : "", result < 0 ? strerrorname_np(e) : "");
}
#define SHOW(call) (errno = 0, show(#call, (long)(call)))

static int listener(struct sockaddr_in *at) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof *at;
    memset(at, 0, sizeof *at);
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)at, len) || listen(fd, 8) || getsockname(fd, (struct sockaddr *)at, &len)) abort();
    return fd;
}

int main(int argc, char **argv) {
    struct sockaddr_in at, peer;
    socklen_t len = sizeof peer;
    char *volatile nowhere = NULL;
    char buf[256], *heap = malloc(256);
    size_t some = argc > 1 ? strtoul(argv[1], NULL, 10) : 5; /* not provable: the fortified twins are called */
    int l = listener(&at), c = socket(AF_INET, SOCK_STREAM, 0), s, one = 1, n = 0;

    SHOW(connect(c, NULL, 0));
    SHOW(fcntl(c, F_SETFL, O_NONBLOCK));
    SHOW(connect(c, (struct sockaddr *)&at, sizeof at));
    s = accept(l, NULL, NULL);
    struct pollfd p = {c, POLLOUT, 0};
    SHOW(poll(&p, 1, 5000));
    len = sizeof one;
    SHOW(getsockopt(c, SOL_SOCKET, SO_ERROR, &one, &len));
    SHOW(one);
    SHOW(connect(c, (struct sockaddr *)&at, sizeof at));
    SHOW(connect(c, (struct sockaddr *)&at, sizeof at));
    one = 1;
    SHOW(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    SHOW(setsockopt(c, IPPROTO_TCP, 9999, &one, sizeof one));
    len = sizeof peer;
    SHOW(getpeername(c, (struct sockaddr *)&peer, &len));
    SHOW(peer.sin_port == at.sin_port);
    SHOW(recv(c, buf, sizeof buf, 0));
    SHOW(send(s, "hello", 5, MSG_NOSIGNAL));
    p.events = POLLIN;
    SHOW(poll(&p, 1, 5000));
    SHOW(ioctl(c, FIONREAD, &n));
    SHOW(n);
    SHOW(recv(c, buf, some, MSG_PEEK));
    SHOW(recv(c, buf, some, MSG_DONTWAIT));
    SHOW(fcntl(c, F_SETFL, 0));

    struct iovec iov[2] = {{"wor", 3}, {"ld", 2}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    SHOW(writev(s, iov, 2));
    SHOW(read(c, buf, some));
    SHOW(sendmsg(s, &m, 0));
    iov[0].iov_base = heap, iov[0].iov_len = 2, iov[1].iov_base = buf, iov[1].iov_len = 3;
    SHOW(readv(c, iov, 2));
    SHOW(write(s, "abc", 3));
    SHOW(recvmsg(c, &m, 0));
    struct mmsghdr mm[2] = {{.msg_hdr = m}, {.msg_hdr = m}};
    SHOW(sendmmsg(s, mm, 2, 0));
    SHOW(recvmmsg(c, mm, 2, MSG_WAITFORONE, NULL));
    SHOW(sendto(s, "x", 1, 0, NULL, 0));
    len = sizeof peer;
    SHOW(recvfrom(c, buf, some, 0, (struct sockaddr *)&peer, &len));
    SHOW(read(-1, buf, some));
    SHOW(write(c, nowhere, 5));
    SHOW(recv(0x7fffffff, buf, 1, 0));

    int ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN | EPOLLET, {.u64 = 77}};
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
    SHOW(write(s, "y", 1));
    SHOW(epoll_wait(ep, &ev, 1, 5000));
    SHOW(ev.data.u64);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(c, &set);
    SHOW(select(c + 1, &set, NULL, NULL, NULL));
    SHOW(recv(c, heap, 1, 0));

    int d = dup(c), d2 = dup2(c, 100), d3 = fcntl(c, F_DUPFD_CLOEXEC, 200);
    SHOW(d2);
    SHOW(d3);
    SHOW(dup3(c, c, 0));
    SHOW(dup2(-1, 100));
    SHOW(fcntl(d3, F_GETFD));
    SHOW(write(d2, "z", 1));
    SHOW(read(s, buf, some));
    SHOW(syscall(SYS_close, d));
    SHOW(close(d));
    SHOW(close_range(100, 300, 0));
    SHOW(close(d2));

    FILE *f = tmpfile();
    fputs("from a file", f), fflush(f), rewind(f);
    SHOW(sendfile(s, fileno(f), NULL, 100));
    SHOW(recv(c, buf, 11, MSG_WAITALL));
    SHOW(splice(fileno(f), NULL, c, NULL, 1, 0));

    pid_t pid = fork();
    if (pid == 0) {
        if (write(s, "child", 5) != 5) _exit(9);
        char *args[] = {"sh", "-c", "exit 7", NULL};
        execvp("sh", args);
        _exit(8);
    }
    int status;
    SHOW(waitpid(pid, &status, 0) == pid);
    SHOW(WEXITSTATUS(status));
    SHOW(recv(c, buf, 5, MSG_WAITALL));

    SHOW(shutdown(s, SHUT_WR));
    SHOW(recv(c, buf, some, 0));
    SHOW(close(s));
    signal(SIGPIPE, SIG_IGN);
    SHOW(send(c, "1", 1, 0));
    usleep(100000);
    SHOW(send(c, "2", 1, 0));
    SHOW(close(c));

    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *found = NULL;
    SHOW(getaddrinfo("127.0.0.1", "80", &hints, &found));
    printf("%s\n", found->ai_canonname);
    freeaddrinfo(found);
    SHOW(getaddrinfo("sales.lab", "80", &(struct addrinfo){.ai_flags = AI_NUMERICHOST}, &found));
    struct hostent *h = gethostbyname("127.0.0.9");
    printf("%s %d\n", h->h_name, h->h_length);
    at.sin_addr.s_addr = inet_addr("239.192.1.2"); /* in our range, and nobody's name */
    c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (struct sockaddr *)&at, sizeof at));
    return 0;
}
