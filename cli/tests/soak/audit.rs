//! The tables, and the books held against them.

use crate::books::{Books, Inner, Outcome};
use crate::pg_lab::{LIMIT, Lab, text};
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

pub const ACCOUNTS: i64 = 20;
const BALANCE: i64 = 1_000_000;

/// `ledger` has no key, so that a row that was inserted twice is there twice.
pub fn make_tables(lab: &Lab) {
    lab.sql(&format!(
        "create table public.ledger (id bigint, pid int default pg_backend_pid(), at timestamptz default clock_timestamp()); \
         create table public.accounts (id int primary key, balance bigint); \
         insert into public.accounts select i, {BALANCE} from generate_series(1, {ACCOUNTS}) i; \
         create table public.legs (transfer bigint, account int, amount bigint)"
    ));
    // pgbench's own, as `pgbench -i` makes them, with a tenth of its accounts.
    lab.sql(
        "create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84)); \
         insert into pgbench_accounts select i, 1, 0, '' from generate_series(1, 100000) i; \
         create table pgbench_tellers (tid int primary key, bid int, tbalance int, filler char(84)); \
         insert into pgbench_tellers select i, 1, 0, '' from generate_series(1, 10) i; \
         create table pgbench_branches (bid int primary key, bbalance int, filler char(88)); \
         insert into pgbench_branches values (1, 0, ''); \
         create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
    );
}

/// Rows of `sql`, which gives numbers. Asked until the lab, which has just lived through something, answers.
fn rows(lab: &Lab, sql: &str) -> Vec<Vec<i64>> {
    let end = Instant::now() + LIMIT;
    let out = loop {
        let out = lab.psql(&format!("copy ({sql}) to stdout"));
        if out.status.success() {
            break String::from_utf8(out.stdout).unwrap();
        }
        assert!(Instant::now() < end, "{sql}: {}{}", text(&out), lab.logs());
    };
    let row = |line: &str| line.split('\t').map(|n| n.parse().unwrap_or(-1)).collect();
    out.lines().map(row).collect()
}

/// Everything that is not as it was told goes into the books as wrong.
pub fn check(lab: &Lab, books: &Books) {
    let mut found = Vec::new();
    let ledger = counts(rows(
        lab,
        "select id, count(*) from public.ledger group by id",
    ));
    let legs = rows(
        lab,
        "select transfer, count(*), sum(amount)::bigint from public.legs group by transfer",
    );
    let accounts = rows(
        lab,
        &format!(
            "select a.id, a.balance, ({BALANCE} + coalesce((select sum(amount) from public.legs where account = a.id), 0))::bigint \
             from public.accounts a"
        ),
    );
    let pgbench = rows(
        lab,
        "select (select count(*) from pgbench_history), coalesce((select sum(delta) from pgbench_history), 0), \
         (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
         (select sum(bbalance) from pgbench_branches)",
    );
    books.with(|inner| {
        compare("row", &inner.ledger, &ledger, &mut found);
        for (id, count) in &inner.looked {
            let now = ledger.get(id).copied().unwrap_or(0);
            if now != *count {
                found.push(format!(
                    "row {id} is there {now} times, and {count} when the next session looked for it"
                ));
            }
        }
        let mut transfers = HashMap::new();
        for row in &legs {
            let [transfer, count, sum] = row[..] else {
                continue;
            };
            if count % 2 != 0 || sum != 0 {
                found.push(format!(
                    "transfer {transfer}: {count} legs with the sum {sum}"
                ));
            }
            transfers.insert(transfer, (count / 2) as usize);
        }
        compare("transfer", &inner.transfers, &transfers, &mut found);
        for row in accounts.iter().filter(|row| row[1] != row[2]) {
            found.push(format!(
                "account {}: {} where its legs give {}",
                row[0], row[1], row[2]
            ));
        }
        check_pgbench(inner, &pgbench[0], &mut found);
    });
    found.into_iter().for_each(|text| books.wrong(text));
}

fn counts(rows: Vec<Vec<i64>>) -> HashMap<i64, usize> {
    rows.into_iter()
        .map(|row| (row[0], row[1] as usize))
        .collect()
}

fn compare(
    what: &str,
    told: &HashMap<i64, Outcome>,
    there: &HashMap<i64, usize>,
    found: &mut Vec<String>,
) {
    for (id, outcome) in told {
        let copies = there.get(id).copied().unwrap_or(0);
        if !outcome.allows(copies) {
            found.push(format!(
                "{what} {id} is there {copies} times, and was {outcome:?}"
            ));
        }
    }
    for id in there.keys().filter(|id| !told.contains_key(*id)) {
        found.push(format!(
            "{what} {id} is there, and nobody was told anything of it"
        ));
    }
}

fn check_pgbench(inner: &Inner, row: &[i64], found: &mut Vec<String>) {
    let [rows, sum, accounts, tellers, branches] = row[..] else {
        return;
    };
    if [accounts, tellers, branches] != [sum; 3] {
        found.push(format!(
            "pgbench's sums: history {sum}, {accounts}, {tellers}, {branches}"
        ));
    }
    let told = inner.pgbench;
    let rows = rows as u64;
    if rows < told.acked || (!told.uncounted && rows > told.acked + told.unknown) {
        found.push(format!(
            "pgbench's history has {rows} rows, and it says {told:?}"
        ));
    }
}

/// How many of what, for the report.
pub fn tally(books: &Inner) -> BTreeMap<&'static str, [u64; 3]> {
    let count = |all: &HashMap<i64, Outcome>| {
        [Outcome::Acked, Outcome::Refused, Outcome::Unknown]
            .map(|outcome| all.values().filter(|it| **it == outcome).count() as u64)
    };
    let pgbench = [books.pgbench.acked, 0, books.pgbench.unknown];
    BTreeMap::from([
        ("rows", count(&books.ledger)),
        ("transfers", count(&books.transfers)),
        ("pgbench transactions", pgbench),
    ])
}
