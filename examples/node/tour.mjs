// The queue from Node: npm install && DATABASE_URL=postgres://... npm start
//
// The schema must be installed. No library but `pg`: each operation is one SQL function.

import assert from "node:assert/strict";
import pg from "pg";

const QUEUE = "tour of Node";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
pool.on("error", (error) => console.error(`idle connection lost: ${error.message}`));

async function put(data, { scheduleIn = null, priority = 0, maxAttempts = null } = {}) {
  // JSON.stringify here: given an array, `pg` would make it an array of PostgreSQL.
  const { rows } = await pool.query(
    "select queue_put($1, $2, schedule_in => $3, priority => $4, max_attempts => $5) as id",
    [QUEUE, JSON.stringify(data), scheduleIn, priority, maxAttempts],
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

// Leases a job and works on it in no transaction, for long work: a heartbeat extends the lease.
// Returns false when there was none.
async function lease(work, { leaseFor = "1 minute", heartbeat = 20_000, retryIn = null } = {}) {
  const { rows } = await pool.query(
    "select id, receipt, data, attempts, last_error from queue_lease($1, lease => $2, consumer => 'node')",
    [QUEUE, leaseFor],
  );
  if (!rows.length) return false;
  const held = [QUEUE, rows[0].id, rows[0].receipt];
  const timer = setInterval(() => {
    // A lease that was lost is noticed at the end.
    pool.query("select queue_progress($1, $2, $3, lease => $4)", [...held, leaseFor]).catch(() => {});
  }, heartbeat);
  try {
    await work(rows[0]);
    const completed = await pool.query("select queue_complete($1, $2, $3) as done", held);
    if (!completed.rows[0].done) throw new Error("the lease was lost: somebody else may have the job");
  } catch (error) {
    // Gives false, and changes nothing, if the lease was lost.
    await pool.query("select queue_error($1, $2, $3, $4, retry_in => $5)", [...held, String(error), retryIn]);
    throw error;
  } finally {
    clearInterval(timer);
  }
  return true;
}

// Works until `signal` says so: queue_listen, look how long to sleep, take; with nothing to take,
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
    // On the connection that sleeps: only who listens in this way is notified.
    await listener.query("select queue_listen($1)", [QUEUE]);
    while (!signal.aborted) {
      notified = false;
      // On the same connection: it knows of whom it may miss a notification.
      const { rows } = await listener.query(
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
    const lost = await listener.query("select queue_unlisten($1)", [QUEUE]).catch((error) => error);
    listener.release(lost instanceof Error);
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

// A lease lasts as long as its heartbeats.
await put("long work");
const short = { leaseFor: "2s", heartbeat: 500 };
assert.equal(await lease(() => new Promise((resolve) => setTimeout(resolve, 2500)), short), true);
assert.equal(await lease(() => {}), false);
console.log("a leased job outlasted its first lease by heartbeats, and was completed");

// Work that fails is tried again, after a pause; out of attempts, the job is among the dead.
await put("bad work", { maxAttempts: 2 });
const fail = () => { throw new Error("a worm"); };
await assert.rejects(lease(fail, { retryIn: "0" }), /a worm/);
await assert.rejects(lease(fail), /a worm/);
const { rows: dead } = await pool.query("select data, reason from queue_dead_list($1)", [QUEUE]);
assert.deepEqual(dead, [{ data: "bad work", reason: "attempt 2 of 2 failed: Error: a worm" }]);
await pool.query("select queue_redrive($1)", [QUEUE]);
assert.equal(await lease((job) => assert.equal(job.last_error, "Error: a worm")), true);
console.log("a leased job failed twice, was among the dead, was put back, and done");

await pool.query("select queue_drop($1)", [QUEUE]);
await pool.end();
