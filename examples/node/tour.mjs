// The queue from Node: npm install && DATABASE_URL=postgres://... npm start
//
// The schema must be installed. No library but `pg`: each operation is one SQL function.

import assert from "node:assert/strict";
import pg from "pg";

const QUEUE = "tour of Node";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
pool.on("error", (error) => console.error(`idle connection lost: ${error.message}`));

async function put(data, { scheduleIn = null, priority = 0 } = {}) {
  // JSON.stringify here: given an array, `pg` would make it an array of PostgreSQL.
  const { rows } = await pool.query(
    "select queue_put($1, $2, schedule_in => $3, priority => $4) as id",
    [QUEUE, JSON.stringify(data), scheduleIn, priority],
  );
  return rows[0].id; // a string: a bigint may be too large for a number
}

// Takes a job and works on it in one transaction: if the work fails, the job is back.
// Returns false when there was none.
async function take(work) {
  const client = await pool.connect();
  let broken;
  try {
    await client.query("begin");
    const { rows } = await client.query("select id, data from queue_get($1)", [QUEUE]);
    if (rows.length) await work(rows[0], client);
    await client.query("commit");
    return rows.length > 0;
  } catch (error) {
    await client.query("rollback").catch((lost) => (broken = lost));
    throw error;
  } finally {
    client.release(broken);
  }
}

// Works until `signal` says so: LISTEN, look how long to sleep, take; with nothing to take,
// sleep until a notification or that time, whichever comes first.
async function consume(work, signal) {
  const listener = await pool.connect();
  let wake = () => {};
  let notified = false;
  const onNotification = () => {
    notified = true;
    wake();
  };
  listener.on("notification", onNotification);
  signal.addEventListener("abort", onNotification);
  try {
    const { rows } = await listener.query("select queue_channel($1) as channel", [QUEUE]);
    await listener.query(`listen ${pg.escapeIdentifier(rows[0].channel)}`);
    while (!signal.aborted) {
      notified = false;
      const { rows } = await pool.query(
        "select extract(epoch from queue_wait($1))::float8 as seconds",
        [QUEUE],
      );
      if (await take(work)) continue;
      if (notified) continue;
      const milliseconds = Math.min(Math.ceil((rows[0].seconds ?? 5) * 1000), 5000);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, milliseconds);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  } finally {
    signal.removeEventListener("abort", onNotification);
    listener.off("notification", onNotification);
    await listener.query("unlisten *").catch(() => {});
    listener.release();
  }
}

// JSON comes back as it went in.
const values = [{ kind: "Cox", weight: 1.5, tags: ["é", '"', "\\"] }, [1, [2]], "text", 0, true, null];
for (const value of values) await put(value);
const back = [];
while (await take((job) => back.push(job.data)));
assert.deepEqual(back, values);
console.log(`${values.length} values came back as they went in`);

// Work that fails leaves the job where it was.
await put({ kind: "Gala" });
await assert.rejects(take(() => { throw new Error("no"); }), /no/);
assert.equal(await take((job) => assert.equal(job.data.kind, "Gala")), true);
assert.equal(await take(() => {}), false);
console.log("a failed job was returned, then done");

// A consumer that sleeps is woken by a put, and by the time of a scheduled job.
const stop = new AbortController();
const seen = [];
const consumer = consume((job) => {
  seen.push(job.data);
  if (seen.length === 3) stop.abort();
}, stop.signal);
const started = Date.now();
await put("later", { scheduleIn: "300ms" });
await put("now");
await put("urgent", { scheduleIn: "300ms", priority: 1 });
await consumer;
const took = Date.now() - started;
assert.equal(seen[0], "now");
assert.deepEqual(seen.slice(1).sort(), ["later", "urgent"]);
assert.ok(took >= 290 && took < 5000, `took ${took} ms`);
console.log("a sleeping consumer was woken by a put and by the clock");

await pool.query("select queue_drop($1)", [QUEUE]);
await pool.end();
