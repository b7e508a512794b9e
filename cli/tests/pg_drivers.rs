//! The PostgreSQL drivers of other languages, unmodified and as they come, below `vianet run`: their open sessions go on on the
//! second server, what is lost is an error, and what nobody knows is never tried again. `pg_drivers/` has a program for each; they
//! obey lines and answer with one. `VIANET_TEST_TIMES` says how often the nodes are lost under idle sessions.
//!
//! Skipped, with a line that says so, where PostgreSQL or its server headers are not installed; and so is each driver.

#[path = "pg_drivers/drivers.rs"]
mod drivers;
#[path = "pg_ext/mod.rs"]
mod pg_ext;
#[path = "pg_lab/mod.rs"]
mod pg_lab;
#[path = "pg_lab/psql.rs"]
mod psql;

use drivers::{Driver, Program};
use pg_lab::LIMIT;
use psql::{Movable, times};
use std::time::{Duration, Instant};

const SCHEMA: &str = "create schema sales; create table sales.notes (id int, tenant text, note text); \
     insert into sales.notes values (1, '41', 'of another tenant'), (1, '42', 'mine'); \
     create role reader; grant reader to app; grant usage on schema sales to reader; \
     grant select, insert on sales.notes to reader; \
     alter table sales.notes enable row level security; \
     create policy own on sales.notes using (tenant = current_setting('app.tenant'))";

/// What the statement answers: the row of the tenant, the role, settings, and that it is prepared on the server.
const STATE: &str = "mine|reader|sales, pg_catalog|Asia/Kathmandu|42|1";

fn about(programs: &[Program]) -> String {
    let all: Vec<_> = programs.iter().map(Program::about).collect();
    all.join("\n")
}

#[test]
fn drivers_go_on_as_if_nothing_had_happened() {
    let drivers = Driver::installed();
    let Some(movable) = Movable::up("postgres", 190, &[]) else {
        return;
    };
    let lab = &movable.lab;
    lab.superuser("node-a", SCHEMA);
    // A node is lost when it hangs up, not because so many programs keep it from answering in time.
    let config = lab.dir().join("client.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    // Some of the drivers send no ROLLBACK after a COMMIT that failed.
    let text = format!("probes_lost = 100\n{text}commit_ends_lost_block = true\n");
    std::fs::write(&config, text).unwrap();
    let mut programs = Vec::new();
    for transport in ["shm", "tcp"] {
        programs.extend(drivers.iter().map(|it| Program::start(lab, *it, transport)));
    }
    // All begin at once: some take their time.
    programs.iter_mut().for_each(|it| it.tell("login app"));
    programs.iter().for_each(|it| assert_eq!(it.good(), "open"));

    let ask = |programs: &mut Vec<Program<'_>>| {
        for _ in 0..3 {
            for program in programs.iter_mut() {
                assert_eq!(program.ask("ask"), STATE, "{}", program.about());
            }
        }
    };
    for _ in 0..times() {
        ask(&mut programs);
        movable.until_all(programs.len(), "yes", &|| about(&programs));
        let lost = movable.lose();
        ask(&mut programs);
        movable.bring_back(lost);
    }

    // A transaction that is open is lost, and says so; then the session is as it was.
    movable.until_all(programs.len(), "yes", &|| about(&programs));
    for program in &mut programs {
        assert_eq!(program.ask("block"), "in a block");
    }
    let lost = movable.lose();
    for program in &mut programs {
        // Whatever comes first hears of it.
        for (transport, command) in [("shm", "ask"), ("tcp", "commit")] {
            if program.transport == transport {
                let told = program.failed(command);
                assert_eq!(told, program.driver.lost(command), "{}", program.about());
            }
        }
        assert_eq!(program.ask("rollback"), "None", "{}", program.about());
        // Another one.
        assert_eq!(program.ask("block"), "in a block", "{}", program.about());
        assert_eq!(program.ask("rollback"), "None", "{}", program.about());
        // psycopg 3 forgets at a rollback what it has prepared, and prepares it again after so many times.
        let mut state = program.ask("ask");
        for _ in 0..5 {
            let differs = state.trim_end_matches(char::is_numeric) != STATE.trim_end_matches('1');
            assert!(!differs, "{state}: {}", program.about());
            state = program.ask("ask");
        }
        assert_eq!(state, STATE, "{}", program.about());
    }
    movable.bring_back(lost);

    // One that runs is not known to have run, and is not run again.
    programs.iter_mut().for_each(|it| it.tell("sleep"));
    let running = "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(600)%' \
         and pid <> pg_backend_pid()";
    let active = lab.status()["active"]["sales"].clone();
    let end = Instant::now() + LIMIT;
    while lab.superuser(active.as_str().unwrap(), running) != programs.len().to_string() {
        assert!(Instant::now() < end, "they do not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    movable.lose();
    for program in &mut programs {
        let told = program.heard_failure();
        assert_eq!(told, program.driver.unknown(), "{}", program.about());
    }
    let active = lab.status()["active"]["sales"].clone();
    let rows = "select string_agg(note, ',' order by note) from sales.notes";
    let rows = lab.superuser(active.as_str().unwrap(), rows);
    assert_eq!(rows, "mine,of another tenant");
    assert_eq!(lab.superuser(active.as_str().unwrap(), running), "0");
    // The same program opens another one.
    programs.iter_mut().for_each(|it| it.tell("login app"));
    programs.iter().for_each(|it| assert_eq!(it.good(), "open"));
    ask(&mut programs);
}
