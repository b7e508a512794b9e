//! Programs that name no server of ours cannot tell that the library is there: run without and with it, they print the
//! same and end the same.

mod common;

use common::{available, compile, finish, preload, same, text};
use std::process::Command;

fn sh(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    command
}

#[test]
fn small_tools() {
    for script in [
        "ls -la /usr/share/doc/base-files /nonexistent",
        "printf 'a\\nb\\nc\\n' | cat | sort -r | tr a-z A-Z",
        "cat /nonexistent; echo $?",
        "exit 42",
        "kill -9 $$",
        "set -o pipefail; yes | head -c 1000000 | sha256sum",
        "exec 3<>/dev/null; echo x >&3; exec 3>&-; echo y >&3",
        "(sleep 0.1; echo child) & wait; echo parent",
        "head -c 3000000 /dev/zero | gzip -9 | gunzip | wc -c",
        "tar cf - -C /etc passwd | tar tf -",
        "getent hosts localhost; getent ahosts 127.0.0.1; getent hosts no.such.host.invalid",
        "diff <(seq 1 1000) <(seq 1 2 1000) | md5sum",
        "env -i /bin/sh -c 'echo ${LD_PRELOAD-none}'",
        // Nothing that a library does before ours is initialised leaves a descriptor open.
        "ls /proc/self/fd",
    ] {
        same(|| sh(script));
    }
}

#[test]
fn git() {
    if !available("git") {
        return;
    }
    same(|| {
        sh(
            "cd $(mktemp -d) && trap 'rm -rf $PWD' EXIT && export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 \
            GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
            GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' && \
            git init -q a && cd a && echo 1 > f && git add f && git commit -qm m && git log --format=%H && \
            cd .. && git clone -q a b && git -C b fsck && git -C b log -p",
        )
    });
}

const PYTHON: &str = r#"
import asyncio, http.server, os, select, socket, subprocess, threading, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode() * 10000
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = "http://127.0.0.1:%d/x" % server.server_port
print(len(urllib.request.urlopen(url).read()), len(urllib.request.urlopen(url.replace("127.0.0.1", "localhost")).read()))
async def main():
    async def echo(reader, writer):
        writer.write(await reader.readexactly(100000)); await writer.drain(); writer.close()
    s = await asyncio.start_server(echo, "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    w.write(b"q" * 100000); print(len(await r.readexactly(100000))); w.close()
    p = await asyncio.create_subprocess_exec("echo", "from a child", stdout=subprocess.PIPE)
    print((await p.communicate())[0])
asyncio.run(main())
print(subprocess.run(["cat"], input=b"piped", stdout=subprocess.PIPE).stdout)
for host in ("no-such-host.invalid", "lab\\sales", "x" * 10000):
    try: socket.create_connection((host, 1), 5)
    except Exception as e: print(type(e).__name__, e)
try: socket.create_connection(("127.0.0.1", 1), 5)
except OSError as e: print(e)
"#;

#[test]
fn python_servers_and_clients_on_loopback() {
    if !available("python3") {
        return;
    }
    same(|| {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]);
        command
    });
}

#[test]
fn curl_and_node() {
    if available("curl") {
        same(|| {
            sh(
                "curl -sS --max-time 20 http://127.0.0.1:1/ file:///etc/hostname 2>&1 | sed 's/after [0-9]* ms/after N ms/'",
            )
        });
    }
    if available("node") {
        let script = "const net=require('net');const s=net.createServer(c=>c.pipe(c)).listen(0,'127.0.0.1',()=>{\
            const c=net.connect(s.address().port,'127.0.0.1');let n=0;c.on('data',d=>{n+=d.length;\
            if(n==100000){console.log(n);c.end();s.close()}});c.write('z'.repeat(100000))});";
        same(|| {
            let mut command = Command::new("node");
            command.args(["-e", script]);
            command
        });
    }
}

#[test]
fn every_hooked_call_in_c() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for flags in [
        &["-O2"][..],
        &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
    ] {
        let Some(program) = compile(directory.path(), "sockets", flags) else {
            return;
        };
        same(|| Command::new(&program));
        let output = finish(preload(&mut Command::new(&program)));
        assert!(
            output.status.success() && output.stdout.len() > 2000,
            "{}",
            text(&output)
        );
    }
}

/// Another library's constructor runs before ours.
#[test]
fn constructors_of_other_libraries() {
    if !available("cc") {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = common::root().join("preload/tests/c/early.c");
    let (library, program) = (
        directory.path().join("libearly.so"),
        directory.path().join("early"),
    );
    let mut cc = Command::new("cc");
    cc.args([
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-DLIBRARY",
    ]);
    let output = finish(cc.arg(&source).arg("-o").arg(&library));
    assert!(output.status.success(), "{}", text(&output));
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror"]).arg(&source);
    cc.arg(&library).arg("-o").arg(&program);
    let output = finish(&mut cc);
    assert!(output.status.success(), "{}", text(&output));
    let run = |exec: Option<&str>| {
        let mut command = Command::new(&program);
        // Inherited by what is exec'd, which does not have the library.
        command.env("LD_LIBRARY_PATH", directory.path());
        exec.map(|exec| command.env("EARLY_EXEC", exec));
        command
    };
    let said = text(&finish(preload(&mut run(None))));
    assert!(said.contains("still open: 0"), "{said}");
    for exec in [None, Some("execvp"), Some("execvpe"), Some("fexecve")] {
        same(|| run(exec));
    }
}

/// A figure for the reader; the benchmark has the floor.
#[test]
fn cost_of_a_hooked_call() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(program) = compile(directory.path(), "cost", &[]) else {
        return;
    };
    let without = finish(&mut Command::new(&program));
    let with = finish(preload(&mut Command::new(&program)));
    for (what, output) in [("without", without), ("with", with)] {
        assert!(output.status.success(), "{}", text(&output));
        println!(
            "{what} the library: {} ns a call",
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
}

#[test]
fn psql_to_an_ordinary_server() {
    // Refused: there is no server. What counts is that psql says the same.
    if available("psql") {
        same(|| sh("psql 'host=127.0.0.1 port=1 user=nobody dbname=none' -c 'select 1'"));
        same(|| sh("psql 'host=no-such-host.invalid user=nobody dbname=none' -c 'select 1'"));
    }
}
