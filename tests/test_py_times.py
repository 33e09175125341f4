"""When: datetimes, timedeltas and strings."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgq_py import errors

pytest_plugins = ("world_fixtures",)


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        (timedelta(hours=1), 3600),
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("2d", 172800),
        ("1.5h", 5400),
        (" +2 m ", 120),
    ],
)
@pytest.mark.parametrize("option", ["schedule_at", "expected_at"])
async def test_a_duration_counts_from_now(queue, option, when, seconds):
    await queue.put(1, **{option: when})
    (job,) = await queue.list(scheduled=True)
    # One clock, the server's; the two are taken in one call.
    assert getattr(job, option) - job.enqueued_at == timedelta(seconds=seconds)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-9, minutes=-30)), zoneinfo.ZoneInfo("Asia/Kolkata")])
async def test_an_aware_datetime_means_the_same_moment_everywhere(queue, zone):
    at = datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=zone)
    await queue.put(1, at, at)
    (job,) = await queue.list(scheduled=True)
    assert job.schedule_at == job.expected_at == at


@pytest.mark.parametrize(
    "when", ["-5m", timedelta(seconds=-1), timedelta(0), "0s", datetime(2000, 1, 1, tzinfo=UTC), "-10000d"]
)
async def test_what_has_passed_means_now(queue, when):
    await queue.put(1, when)
    assert (await queue.get(block=False)).data == 1


NO_TIMES = [
    "xyz", "", "5", "5 minutes", "nan", "inf", "infinity", "5y", "1e3s", "\uff15m", "99999999999d",
    datetime(2030, 1, 1), 5, float("nan"), float("inf"), object(),
    timedelta(days=300_000 * 366), timedelta.max,
]  # fmt: skip


async def test_what_is_no_time_is_refused_and_nothing_stored(queue):
    for option in ("schedule_at", "expected_at"):
        for when in NO_TIMES:
            with pytest.raises(errors.TimeError) as caught:
                await queue.put(1, **{option: when})
            assert isinstance(caught.value, ValueError)
            with pytest.raises(errors.TimeError):
                await queue.put_many([1], **{option: when})
    assert await queue.count(scheduled=True) == 0


async def test_300000_years_ago_is_refused_or_means_now(queue):
    for when in (timedelta.min, timedelta(days=-300_000 * 366)):
        try:
            await queue.put(1, when)
        except errors.TimeError:
            continue
        assert (await queue.get(block=False)).data == 1
    assert await queue.count(scheduled=True) == 0


async def test_a_time_beyond_pythons_calendar_does_not_cost_the_job(world, conn):
    queue = world.pq(await world.connect(conninfo={"options": "-c timezone=Asia/Kolkata"}))["apples"]
    # The end of the last year, which is beyond it in the zones of the east.
    conn.execute("select queue_put('apples', '1', expected_at => '9999-12-31 23:59:59+00')")
    conn.execute("select queue_put('apples', '0', expected_at => '4000-01-01 BC')")
    first, last = [await queue.get(block=False), await queue.get(block=False)]
    assert (first.data, first.expected_at.year) == (0, 1)
    assert (last.data, last.expected_at.year) == (1, 9999)
    conn.execute("select queue_put('apples', '1', schedule_at => '9999-12-31 23:59:59+00')")
    assert (await queue.next_at()).year == 9999


@pytest.mark.parametrize("style", ["-c datestyle=German", "-c intervalstyle=iso_8601", "-c intervalstyle=sql_standard",
                                   "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata"])  # fmt: skip
async def test_no_style_of_the_session_matters(world, style):
    queue = world.pq(await world.connect(conninfo={"options": style}))["apples"]
    await queue.put(1, "-1d", datetime(2030, 2, 1, tzinfo=UTC))
    await queue.put(2, "1d")
    assert (await queue.next_at()) > datetime.now(UTC) + timedelta(hours=20)
    job = await queue.get(block=False)
    assert (job.data, job.expected_at) == (1, datetime(2030, 2, 1, tzinfo=UTC))
    assert await queue.get(timeout=0.05) is None


async def test_a_scheduled_job_is_not_taken_before_its_time_and_then_at_once(queue, sleepers, conn):
    await queue.put(1, timedelta(milliseconds=300))
    job = await queue.get(timeout=20)
    # By the server's clock. The poll interval is a minute: only exact sleeping ends so soon.
    early = conn.execute("select clock_timestamp() - %s", [job.schedule_at]).fetchone()[0]
    assert timedelta(0) <= early < timedelta(seconds=5)
    assert early < timedelta(seconds=1.9)


async def test_an_earlier_due_job_put_while_asleep_wakes(queue, sleepers, world):
    from worlds import Background

    from pgq_py import PQ

    await queue.put("later", "1h")

    def put():
        sleepers.wait()
        with PQ(world.dsn) as pq:
            pq["apples"].put("sooner", timedelta(milliseconds=100))

    putting = Background(put)
    assert (await queue.get(timeout=20)).data == "sooner"
    putting.result()
