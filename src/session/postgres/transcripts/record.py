#!/usr/bin/env python3
"""Records sessions of real clients with a real PostgreSQL as the transcripts in this folder.

    record.py BINDIR     (the folder of initdb and postgres; not as root: use setpriv)

A relay on a Unix socket stands between client and server. A transcript has one line for each piece that went through, in
the order in which they did: `>` the client's bytes or `<` the server's, in hexadecimal. A second connection of the same
client (a cancel request) is a transcript of its own, NAME.2.
"""
import os, select, socket, subprocess, sys, tempfile, time

BIN = sys.argv[1]
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("OUT", HERE)


def relay(listener, server, name, stop):
    count, pairs = 0, {}
    while True:
        ready, _, _ = select.select([listener, stop] + list(pairs), [], [])
        for s in ready:
            if s is stop:
                if len(ready) == 1:
                    return
            elif s is listener:
                client, _ = listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(server)
                count += 1
                out = open(os.path.join(OUT, name + ("" if count == 1 else f".{count}")), "w")
                pairs[client] = (upstream, ">", out)
                pairs[upstream] = (client, "<", out)
            elif s in pairs:
                other, mark, out = pairs[s]
                data = s.recv(1 << 16)
                if data:
                    out.write(mark + data.hex() + "\n")
                    other.sendall(data)
                else:
                    out.flush()
                    for end in (s, other):
                        pairs.pop(end, None)
                        end.close()


def record(dir, name, command, stdin=b""):
    path = os.path.join(dir, "front", ".s.PGSQL.5432")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    stop, end = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        end.close()
        relay(listener, os.path.join(dir, ".s.PGSQL.5432"), name, stop)
        os._exit(0)
    stop.close()
    listener.close()
    env = dict(os.environ, PGHOST=os.path.join(dir, "front"), PGDATABASE="postgres", PGPASSWORD="secret")
    done = subprocess.run(command, input=stdin, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(name, done.returncode, done.stdout.decode()[-2000:])
    time.sleep(0.3)
    end.close()
    os.waitpid(pid, 0)
    os.unlink(path)


PSQL = ["psql", "-X", "-U", "app"]
STORY = b"""
select 40 + 2;
select 1/0;
insert into t values (1), (2) returning id;
begin;
insert into t values (3);
select nothing;
select 1;
rollback;
select 1 \\; begin \\; select 2;
commit;
set work_mem = '5MB';
listen news;
notify news, 'now';
do $$ begin raise notice 'a notice'; end $$;
prepare p as select $1::int;
execute p (7);
;
"""
COPY = b"""
copy t from stdin;
10
11
\\.
copy t from stdin;
12
nonsense
\\.
copy t to stdout;
\\copy (select * from t limit 1) to /dev/null
"""
BLOCKS = b"""
begin;
set work_mem = '6MB';
insert into t values (20);
savepoint a;
select 1/0;
rollback to a;
copy t from stdin;
21
22
\\.
copy t to stdout;
select 1 \\; commit \\; select 2;
start transaction;
insert into t values (23);
select nothing;
insert into t values (24);
commit;
begin;
prepare inside as select 1;
rollback;
begin;
select pg_try_advisory_lock(7);
commit and chain;
insert into t values (25);
end;
call commits();
begin;
declare c cursor for select * from t;
fetch 1 from c;
rollback;
begin \\; insert into t values (26);
prepare transaction 'x';
"""
PIPELINE = b"""\\startpipeline
select :client_id;
insert into t values (100);
select 2;
\\endpipeline
"""


def main():
    with tempfile.TemporaryDirectory() as dir:
        data = os.path.join(dir, "data")
        os.mkdir(os.path.join(dir, "front"))
        quiet = dict(stdout=subprocess.DEVNULL)
        subprocess.run([BIN + "/initdb", "-D", data, "-U", "app", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"], check=True, **quiet)
        with open(data + "/pg_hba.conf", "w") as hba:
            hba.write("local all sesame scram-sha-256\nlocal all old md5\nlocal all plain password\nlocal all all trust\n")
        server = subprocess.Popen([BIN + "/postgres", "-D", data, "-k", dir, "-c", "listen_addresses="], stderr=subprocess.DEVNULL)
        try:
            direct = dict(os.environ, PGHOST=dir, PGDATABASE="postgres", PGUSER="app")
            for _ in range(100):
                if subprocess.run(["psql", "-Xqc", "select"], env=direct, stderr=subprocess.DEVNULL, **quiet).returncode == 0:
                    break
                time.sleep(0.1)
            setup = """create table t (id int); create role sesame login superuser password 'secret';
                create role plain login password 'secret';
                set password_encryption = md5; create role old login password 'secret';
                create procedure commits() language plpgsql as $$ begin insert into t values (50); commit; end $$;"""
            subprocess.run(["psql", "-Xqc", setup], env=direct, check=True)
            record(dir, "simple", PSQL, STORY)
            record(dir, "scram", ["psql", "-X", "-U", "sesame", "-c", "select 1"])
            record(dir, "md5", ["psql", "-X", "-U", "old", "-c", "select 1"])
            record(dir, "password", ["psql", "-X", "-U", "plain", "-c", "select 1"])
            record(dir, "refused", ["psql", "-X", "-U", "nobody", "-c", "select 1"])
            record(dir, "copy", PSQL, COPY)
            record(dir, "blocks", PSQL, BLOCKS)
            for name, mode, script in [("prepared", "prepared", b"select :client_id;\n"), ("pipeline", "extended", PIPELINE)]:
                with open(dir + "/script", "wb") as f:
                    f.write(script)
                record(dir, name, ["pgbench", "-n", "-U", "app", "-M", mode, "-t", "3", "-f", dir + "/script"])
            program = dir + "/libpq"
            include = subprocess.run(["pg_config", "--includedir"], stdout=subprocess.PIPE).stdout.decode().strip()
            subprocess.run(["cc", "-o", program, HERE + "/record.c", "-I", include, "-lpq"], check=True)
            for name in ["errors", "no_sync", "copy_extended", "copy_fail", "function", "cancel", "replication", "large", "killed", "blocks_extended"]:
                record(dir, name, [program, name])
        finally:
            server.terminate()
            server.wait()


main()
