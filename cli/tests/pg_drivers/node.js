// node-postgres, with a named query.
const { Client } = require('pg');

const SETUP = [
  'set search_path = sales, pg_catalog',
  "set timezone = 'Asia/Kathmandu'",
  "set app.tenant = '42'",
  'set role reader',
];
const STATE = {
  name: 'state',
  text: "select note, current_user, current_setting('search_path'), current_setting('TimeZone'), current_setting('app.tenant'), "
    + "(select count(*) from pg_prepared_statements where position('notes' in statement) > 0) from notes where id = $1",
  values: [1],
  rowMode: 'array',
};

let client, state;

async function connect(password) {
  client = new Client({ host: 'sales.lab', user: 'app', database: 'app', password });
  state = 'open';
  // Without a listener the end of the connection would be the end of the program.
  client.on('error', () => {});
  client.on('end', () => { state = 'closed'; });
  await client.connect();
  for (const statement of SETUP) await client.query(statement);
  await ask();
  return 'open';
}

async function ask() {
  return (await client.query(STATE)).rows[0].join('|');
}

async function block() {
  await client.query('begin');
  await client.query("insert into notes values ($1, '42', 'lost')", [2]);
  return 'in a block';
}

async function obey(command) {
  if (command === 'ask') return ask();
  if (command === 'block') return block();
  if (command === 'commit' || command === 'rollback') return client.query(command).then(() => 'None');
  if (command === 'sleep') return client.query("insert into notes select $1, '42', 'slept' from pg_sleep(600)", [3]);
  return connect(command.replace('login ', ''));
}

(async () => {
  for await (const line of require('readline').createInterface({ input: process.stdin })) {
    try {
      console.log('ok ' + await obey(line.trim()));
    } catch (e) {
      // What follows an error is heard in the next turns.
      await new Promise((later) => setTimeout(later, 100));
      console.log(`error ${e.code} ${state} ${e.name} ${e.message}`);
    }
  }
  process.exit();
})();
