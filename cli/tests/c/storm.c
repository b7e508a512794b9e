/* Many sessions over libpq in one process, which know nothing of vianet: `storm CONNINFO SESSIONS` opens them, each with its own
 * value of a setting, and then obeys its input, a line each:
 *   work N   the first N sessions ask for their value, all at the same moment; says `worked OK WRONG FAILED MAX-MS`
 *   all      each session asks for its value, one after the other; says `asked OK WRONG FAILED`
 * Each failure is a line `failure TEXT` before that. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As libpq-fe.h has them: its package would be needed for these lines alone. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
PGconn *PQconnectdb(const char *conninfo);
int PQstatus(const PGconn *conn);
char *PQerrorMessage(const PGconn *conn);
PGresult *PQexec(PGconn *conn, const char *query);
int PQresultStatus(const PGresult *res);
char *PQgetvalue(const PGresult *res, int row, int column);
void PQclear(PGresult *res);
enum { CONNECTION_OK = 0, PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2 };

enum { OK, WRONG, FAILED };

struct session {
    PGconn *conn;
    int number, outcome;
    double ms;
};

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void failure(PGconn *conn) {
    char line[1024];
    snprintf(line, sizeof line, "failure %s", PQerrorMessage(conn));
    for (char *c = line; *c; c++)
        if (*c == '\n') *c = ' ';
    printf("%s\n", line);
}

static void *ask(void *which) {
    struct session *s = which;
    char wanted[20];
    double began = now_ms();
    snprintf(wanted, sizeof wanted, "%d", s->number);
    PGresult *res = PQexec(s->conn, "select current_setting('app.number')");
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        s->outcome = FAILED;
    else
        s->outcome = strcmp(PQgetvalue(res, 0, 0), wanted) == 0 ? OK : WRONG;
    PQclear(res);
    s->ms = now_ms() - began;
    return NULL;
}

/* How many came out how. */
static void count(struct session *sessions, int n, int *counts, double *longest) {
    *longest = 0;
    memset(counts, 0, 3 * sizeof *counts);
    for (int i = 0; i < n; i++) {
        counts[sessions[i].outcome]++;
        if (sessions[i].ms > *longest) *longest = sessions[i].ms;
        if (sessions[i].outcome == FAILED) failure(sessions[i].conn);
    }
}

int main(int argc, char **argv) {
    char line[200];
    int n, counts[3];
    double longest;
    if (argc != 3 || (n = atoi(argv[2])) < 1) return 2;
    struct session *sessions = calloc(n, sizeof *sessions);
    pthread_t *threads = calloc(n, sizeof *threads);
    for (int i = 0; i < n; i++) {
        sessions[i].conn = PQconnectdb(argv[1]);
        sessions[i].number = i;
        snprintf(line, sizeof line, "set app.number = '%d'", i);
        if (PQstatus(sessions[i].conn) == CONNECTION_OK) PQclear(PQexec(sessions[i].conn, line));
        if (PQstatus(sessions[i].conn) != CONNECTION_OK) failure(sessions[i].conn);
    }
    printf("open\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int workers;
        if (sscanf(line, "work %d", &workers) == 1) {
            if (workers > n) workers = n;
            for (int i = 0; i < workers; i++) pthread_create(&threads[i], NULL, ask, &sessions[i]);
            for (int i = 0; i < workers; i++) pthread_join(threads[i], NULL);
            count(sessions, workers, counts, &longest);
            printf("worked %d %d %d %.0f\n", counts[OK], counts[WRONG], counts[FAILED], longest);
        } else {
            for (int i = 0; i < n; i++) ask(&sessions[i]);
            count(sessions, n, counts, &longest);
            printf("asked %d %d %d\n", counts[OK], counts[WRONG], counts[FAILED]);
        }
        fflush(stdout);
    }
    return 0;
}
