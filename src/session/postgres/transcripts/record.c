/* What record.py runs over libpq: one session for each name. */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static PGconn *conn;

static void results(int syncs) {
    while (syncs > 0) {
        PGresult *r = PQgetResult(conn);
        if (r == NULL) continue;
        printf("%s ", PQresStatus(PQresultStatus(r)));
        if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) syncs--;
        PQclear(r);
    }
}

static void rest(void) {
    for (PGresult *r; (r = PQgetResult(conn)) != NULL; PQclear(r)) printf("%s ", PQresStatus(PQresultStatus(r)));
}

static void send(const char *sql) { PQsendQueryParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0); }

static void run(const char *sql) {
    PGresult *r = PQexec(conn, sql);
    printf("%s ", PQresStatus(PQresultStatus(r)));
    PQclear(r);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    conn = PQconnectdb(strcmp(what, "replication") == 0 ? "user=app replication=database" : "user=app");
    if (PQstatus(conn) != CONNECTION_OK) return puts(PQerrorMessage(conn)), 1;
    if (strcmp(what, "errors") == 0) {
        PQenterPipelineMode(conn);
        send("select 1"); send("select 1/0"); send("select 2"); PQpipelineSync(conn);
        send("insert into t values (60)"); PQsendFlushRequest(conn); PQflush(conn);
        usleep(100000); PQconsumeInput(conn);
        send("select nothing"); PQsendFlushRequest(conn); PQflush(conn);
        usleep(100000); PQconsumeInput(conn);
        send("select 3"); PQpipelineSync(conn); send("begin"); send("select 4"); PQpipelineSync(conn);
        results(3);
        PQsendPrepare(conn, "p", "select $1::int", 0, NULL); PQsendDescribePrepared(conn, "p"); PQpipelineSync(conn);
        results(1);
        send("rollback"); PQpipelineSync(conn); results(1);
        PQexitPipelineMode(conn);
    } else if (strcmp(what, "no_sync") == 0) {
        PQenterPipelineMode(conn);
        send("begin"); send("insert into t values (61)"); send("commit"); send("call commits()");
        PQsendFlushRequest(conn); PQflush(conn);
        usleep(200000); PQconsumeInput(conn);
        PQpipelineSync(conn); results(1);
    } else if (strncmp(what, "copy_", 5) == 0) {
        int fail = strcmp(what, "copy_fail") == 0;
        send("copy t from stdin");
        PGresult *r = PQgetResult(conn);
        printf("%s ", PQresStatus(PQresultStatus(r))); PQclear(r);
        PQputCopyData(conn, "70\n71\n", 6);
        PQputCopyEnd(conn, fail ? "changed my mind" : NULL);
        rest();
        send("copy t from stdin");
        PQclear(PQgetResult(conn));
        PQputCopyData(conn, "not a number\n", 13); PQflush(conn);
        usleep(100000);
        PQputCopyData(conn, "72\n", 3); PQputCopyEnd(conn, NULL);
        rest();
        send("copy t to stdout");
        PQclear(PQgetResult(conn));
        for (char *row; PQgetCopyData(conn, &row, 0) > 0; PQfreemem(row)) {}
        rest();
        run("select 1");
    } else if (strcmp(what, "function") == 0) {
        int result, len; PQArgBlock arg = {.len = 4, .isint = 1, .u.integer = -7};
        PQclear(PQfn(conn, 1397 /* int4abs */, &result, &len, 1, &arg, 1));
        PQclear(PQfn(conn, 1 /* no function */, &result, &len, 1, &arg, 1));
        run("select 1");
    } else if (strcmp(what, "cancel") == 0) {
        char why[256];
        PGcancel *cancel = PQgetCancel(conn);
        PQsendQuery(conn, "select pg_sleep(60)"); PQflush(conn); usleep(200000);
        printf("%d ", PQcancel(cancel, why, sizeof why));
        rest();
    } else if (strcmp(what, "replication") == 0) {
        run("IDENTIFY_SYSTEM");
    } else if (strcmp(what, "large") == 0) {
        run("select repeat('x', 10000)"); run("select 1");
    } else if (strcmp(what, "blocks_extended") == 0) {
        const char *parts[] = {"begin", "insert into t values (80)", "select 1", "rollback", "begin", "select 1/0", "commit",
                               "begin", "insert into t values (81)", "commit", "call commits()"};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) send(parts[i]), rest();
        PQclear(PQprepare(conn, "kept", "select $1::int", 0, NULL));
        send("begin"), rest();
        const char *value = "7";
        PQsendQueryPrepared(conn, "kept", 1, &value, NULL, NULL, 0), rest();
        PQclear(PQprepare(conn, "inside", "select 2", 0, NULL));
        send("rollback"), rest();
        send("begin"), rest();
        send("copy t from stdin");
        PQclear(PQgetResult(conn));
        PQputCopyData(conn, "82\n", 3); PQputCopyEnd(conn, NULL);
        rest();
        PQenterPipelineMode(conn);
        send("insert into t values (83)"); PQpipelineSync(conn); send("select 3"); PQpipelineSync(conn);
        results(2);
        send("rollback"); PQpipelineSync(conn); send("insert into t values (84)"); PQpipelineSync(conn);
        results(2);
        send("begin"); send("insert into t values (85)"); send("commit"); PQpipelineSync(conn);
        send("begin"); send("select 5"); PQpipelineSync(conn); send("insert into t values (86)"); PQsendFlushRequest(conn);
        PQflush(conn); usleep(100000); PQconsumeInput(conn);
        send("commit"); PQpipelineSync(conn);
        results(3);
        PQexitPipelineMode(conn);
    } else if (strcmp(what, "killed") == 0) {
        run("select pg_terminate_backend(pg_backend_pid())");
    }
    PQfinish(conn);
    return 0;
}
