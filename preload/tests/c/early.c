/* A library (-DLIBRARY) whose constructor calls what is no system call, and a program that prints what came of it.
 * The libraries of a program are initialised before one that is preloaded. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void report(void);

#ifdef LIBRARY
static char said[2000];

#define SAY(...) snprintf(said + strlen(said), sizeof said - strlen(said), __VA_ARGS__)

__attribute__((constructor)) static void early(void) {
    FILE *file = fopen("/etc/hostname", "r");
    int fd = file ? fileno(file) : -1;
    SAY("fclose %d\n", file ? fclose(file) : 0);
    SAY("still open: %d\n", fcntl(fd, F_GETFD) >= 0);

    file = fdopen(open("/etc/hostname", O_RDONLY), "r");
    SAY("fdopen %d\n", file != NULL);
    if (file) fclose(file);

    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST}, *found = NULL;
    int error = getaddrinfo("127.0.0.1", "80", &hints, &found);
    SAY("getaddrinfo %s\n", error ? gai_strerror(error) : "works");
    if (!error) freeaddrinfo(found);

    struct hostent *host = gethostbyname("127.0.0.1");
    SAY("gethostbyname %s\n", host ? host->h_name : "fails");
    host = gethostbyname2("127.0.0.1", AF_INET);
    SAY("gethostbyname2 %s\n", host ? host->h_name : "fails");
    struct hostent one;
    char buffer[1000];
    error = gethostbyname_r("127.0.0.1", &one, buffer, sizeof buffer, &host, &(int){0});
    SAY("gethostbyname_r %d %s\n", error, error || !host ? "fails" : host->h_name);
    error = gethostbyname2_r("127.0.0.1", AF_INET, &one, buffer, sizeof buffer, &host, &(int){0});
    SAY("gethostbyname2_r %d %s\n", error, error || !host ? "fails" : host->h_name);

    char *argv[] = {"echo", "this one was exec'd", NULL};
    const char *exec = getenv("EARLY_EXEC");
    if (exec && strcmp(exec, "execvp") == 0) execvp("echo", argv);
    if (exec && strcmp(exec, "execvpe") == 0) execvpe("echo", argv, environ);
    if (exec && strcmp(exec, "fexecve") == 0) fexecve(open("/bin/echo", O_RDONLY), argv, environ);
    if (exec) SAY("%s fails\n", exec);
}

void report(void) { fputs(said, stdout); }
#else
int main(void) {
    report();
    return 0;
}
#endif
