"""Data signed with a secret: what is refused, that nothing is read before the check, and how keys are changed."""

from __future__ import annotations

import base64
import hmac
import logging
import marshal
import os
import pickle
import re
import sys
import traceback
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from pgq_py import PQ, errors
from pgq_py.codecs import Payload, SerializerCodec
from pgq_py.signatures import Keys

pytest_plugins = ("world_fixtures",)

OLD, NEW, OTHER = b"o" * 16, "n" * 32, bytes(range(100, 140))
# What a serializer gives as text or bytes, and takes as such.
PLAIN = SimpleNamespace(dumps=lambda data: data, loads=lambda data: data)
CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.binary()
SEALED = "pgq_py-signed-1:" + 64 * "0" + ":"


class Marker:
    """Unpickled, it makes a folder: proof that somebody ran the pickle."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def seal(key: bytes, queue: str, codec: str, kind: str, content: bytes) -> bytes:
    """As docs/design/pickles.md describes it, for those who write it in another language."""
    message = b""
    for field in (queue.encode(), codec.encode(), kind.encode(), content):
        message += len(field).to_bytes(8, "big") + field
    return b"pgq_py-signed-1:" + hmac.new(key, message, "sha256").hexdigest().encode() + b":" + content


def codec(*keys: bytes | str, queue: str = "apples", serializer: Any = PLAIN) -> SerializerCodec:
    return SerializerCodec(serializer, Keys(keys or None), queue)


class Other:
    """A serializer by a class of its own."""

    dumps = loads = staticmethod(lambda data: data)


class Renamed(Other):
    """One that reads what a class of another name has signed."""

    __name__ = "SimpleNamespace"


Yaml = type("yaml", (Other,), {})


def flipped(sealed: str | bytes, place: int, to: int) -> str | bytes:
    """What is stored, with one bit of it the other way."""
    place %= len(sealed)
    if isinstance(sealed, bytes):
        return sealed[:place] + bytes([sealed[place] ^ (1 << to % 8)]) + sealed[place + 1 :]
    return sealed[:place] + chr(ord(sealed[place]) ^ (1 << to % 7)) + sealed[place + 1 :]


def payload(stored: str | bytes) -> Payload:
    return Payload(bytes=stored) if isinstance(stored, bytes) else Payload(text=stored)


def whole(found: Payload) -> Any:
    return found.bytes if found.text is None else found.text


def refused(reader: SerializerCodec, stored: str | bytes) -> str:
    """Why the codec refuses it; the serializer must not have seen it."""
    seen: list[Any] = []
    reader.serializer = SimpleNamespace(dumps=None, loads=seen.append)
    with pytest.raises(errors.DecodeError) as caught:
        reader.decode(payload(stored))
    assert seen == []
    return str(caught.value)


# The format


@pytest.mark.parametrize("content", ["", "é\n:", b"", b"\0\xff:"])
def test_the_format_is_the_documented_one(content):
    kind, data = ("text", content.encode()) if isinstance(content, str) else ("bytes", content)
    expected = seal(OLD, "äpfel", "SimpleNamespace", kind, data)
    stored = whole(codec(OLD, NEW, queue="äpfel").encode(content))
    assert type(stored) is type(content)
    assert stored == (expected.decode() if kind == "text" else expected)


def test_the_example_in_the_documentation():
    """For whoever writes it in another language."""
    page = (ROOT / "docs/design/pickles.md").read_text()
    (example,) = re.findall(r"^    (pgq_py-signed-1:[0-9a-f]{64}:.*)$", page, re.M)
    assert example.encode() == seal(b"0123456789abcdef", "apples", "yaml", "text", b"kind: Cox")
    assert codec("0123456789abcdef", serializer=Yaml()).decode(Payload(text=example)) == "kind: Cox"


@given(content=CONTENT)
@example(SEALED)
@example(SEALED.encode() + b"more")
def test_what_was_signed_is_read(content):
    stored = codec(OLD).encode(content)
    for reader in (codec(OLD), codec(NEW, OLD), codec(NEW, OTHER, OLD)):
        assert reader.decode(stored) == content
    # Signed twice is not signed once.
    assert codec(OLD).decode(codec(OLD).encode(whole(stored))) == whole(stored)


@given(content=CONTENT, place=st.integers(0, 10**6), to=st.integers(0, 55))
def test_any_flipped_bit_is_refused(content, place, to):
    sealed = whole(codec(OLD).encode(content))
    refused(codec(OLD), flipped(sealed, place, to))


@given(content=CONTENT, end=st.integers(0, 10**6), extra=CONTENT)
def test_what_is_cut_off_or_added_is_refused(content, end, extra):
    sealed = whole(codec(OLD).encode(content))
    refused(codec(OLD), sealed[: end % len(sealed)])
    refused(codec(OLD), sealed[1:])
    if extra and type(extra) is type(sealed):
        refused(codec(OLD), sealed + extra)
        refused(codec(OLD), extra + sealed)


@given(content=CONTENT, queue=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), key=st.binary(min_size=16))
@example("x", "apple", OLD)
@example(b"x", "applesS", OLD)
def test_another_queue_or_key_is_refused(content, queue, key):
    sealed = whole(codec(OLD).encode(content))
    if queue != "apples":
        assert "'apples'" not in refused(codec(OLD, queue=queue), sealed)
    if key != OLD:
        refused(codec(key, NEW), sealed)


@given(content=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_text_is_not_bytes(content):
    sealed = whole(codec(OLD).encode(content))
    refused(codec(OLD), sealed.encode())
    refused(codec(OLD), whole(codec(OLD).encode(content.encode())).decode())


def test_another_codec_is_refused():
    sealed = whole(codec(OLD).encode(b"1"))
    for serializer in (pickle, marshal, Other(), Other):
        name = getattr(serializer, "__name__", "Other")
        assert f"codec {name!r}" in refused(codec(OLD, serializer=serializer), sealed)
    assert codec(OLD, serializer=Renamed()).decode(Payload(bytes=sealed)) == b"1"


def test_the_name_of_a_codec_is_that_of_the_module_or_class_alone():
    # A class of a program is in __main__ there, and elsewhere for those who import it.
    moved = type("Other", (Other,), {"__module__": "__main__"})
    sealed = whole(codec(OLD, serializer=moved()).encode(b"1"))
    assert sealed == seal(OLD, "apples", "Other", "bytes", b"1")
    module = ModuleType("fruit.yaml")
    vars(module).update(dumps=bytes, loads=bytes)
    assert whole(codec(OLD, serializer=module).encode(b"1")) == seal(OLD, "apples", "yaml", "bytes", b"1")
    stored = whole(codec(OLD, serializer=pickle).encode(1))
    assert stored == seal(OLD, "apples", "pickle", "bytes", pickle.dumps(1))


@given(content=CONTENT)
def test_without_a_seal_it_is_refused_with_a_key_and_read_without(content):
    assert "not signed" in refused(codec(OLD), content)
    assert codec().decode(payload(content)) == content


@given(content=CONTENT)
def test_with_a_seal_it_is_refused_without_a_key(content):
    assert "secret" in refused(codec(), whole(codec(OLD).encode(content)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_looks_signed_and_no_seal_is_a_pickle(protocol):
    assert not pickle.dumps([1], protocol).startswith(b"pgq")
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        pickle.loads(seal(OLD, "apples", "pickle", "bytes", pickle.dumps([1], protocol)))


# The secret


@pytest.mark.parametrize("secret", ["", b"", "fifteen bytes..", b"x" * 15, [OLD, "short"], []])
def test_a_key_that_is_too_short_is_refused(secret):
    with pytest.raises(ValueError, match=r"secrets\.token_bytes\(32\)|at least one key") as caught:
        PQ("dbname=x", secret=secret)
    assert "fifteen" not in str(caught.value)


@pytest.mark.parametrize("secret", [1, [None], [1], [["x" * 16]], [bytearray(16)]])
def test_what_is_no_key_is_refused(secret):
    with pytest.raises(TypeError):
        PQ("dbname=x", secret=secret)


def test_text_of_no_unicode_is_refused_without_it():
    with pytest.raises(ValueError, match="surrogate") as caught:
        PQ("dbname=x", secret="hidden" * 9 + "\ud800")
    told = "".join(traceback.format_exception(caught.value, chain=True))
    assert "hiddenhidden" not in told.replace('secret="hidden"', "")
    assert caught.value.__suppress_context__


def test_text_stands_for_its_utf8():
    key = "schlüssel-aus-text"
    assert codec(key.encode()).decode(codec(key).encode("x")) == "x"


async def test_the_secret_is_never_shown(world, conn, caplog):
    caplog.set_level(logging.DEBUG)
    keys = ["confidential-number-one", b"confidential-number-two"]
    pq = world.pq(secret=keys)
    queue = pq["apples/pickle"]
    await queue.put(1)
    conn.execute("select queue_put('apples/pickle', data_bytes => 'forged')")
    await queue.get()
    assert await queue.get(block=False) is None
    (dead,) = await queue.dead()
    with pytest.raises(errors.DecodeError) as caught:
        _ = dead.data
    shown = [caplog.text, dead.reason, repr(queue), "".join(traceback.format_exception(caught.value))]
    for thing in (pq, getattr(pq, "plain", pq), getattr(pq, "plain", pq).keys, getattr(queue, "plain", queue).codec):
        shown += [repr(thing), str(thing), repr(getattr(thing, "__dict__", ""))]
    for text in shown:
        assert "confidential" not in text


# In a queue


async def test_signed_jobs_go_every_way_that_others_do(world, conn):
    queue = world.pq(secret=OLD)["apples/pickle"]
    data = {1, 2}
    id = await queue.put(data, dedupe_key="k", headers=[1])
    (stored,) = conn.execute("select data_bytes from queue_job").fetchone()
    assert stored == seal(OLD, "apples/pickle", "pickle", "bytes", pickle.dumps(data))
    assert await queue.update(id, {3})
    (job,) = await queue.list()
    assert (job.data, job.size) == ({3}, 81 + len(pickle.dumps({3})))
    job = await queue.lease()
    assert await job.update({4})
    assert await job.error("a worm", bury=True)
    (dead,) = await queue.dead()
    assert dead.data == {4}
    assert await queue.redrive() == 1
    async with queue.take() as job:
        assert job.data == {4}
    await queue.put_many([{5}, {6}])
    assert [job.data for job in await queue.get_many(5)] == [{5}, {6}]


async def test_signed_text_stays_text(world, conn):
    text = SimpleNamespace(
        dumps=lambda data: base64.b64encode(repr(data).encode()).decode(),
        loads=lambda text: eval(base64.b64decode(text)),
    )
    queue = world.pq(secret=OLD).queue("apples", serializer=text)
    await queue.put({"é"})
    (stored,) = conn.execute("select data_text from queue_job").fetchone()
    assert stored.encode() == seal(OLD, "apples", "SimpleNamespace", "text", text.dumps({"é"}).encode())
    assert (await queue.get()).data == {"é"}


async def test_json_is_not_signed(world, conn):
    await world.pq(secret=OLD)["apples"].put([1])
    assert conn.execute("select data from queue_job").fetchone() == ([1],)
    assert (await world.pq()["apples"].get()).data == [1]


async def test_the_limit_of_a_queue_is_on_what_is_stored(world):
    queue = world.pq(secret=OLD).queue("apples", serializer=PLAIN)
    await queue.configure(max_bytes=100)
    await queue.put("x" * 19)
    with pytest.raises(errors.PayloadTooLarge, match="101"):
        await queue.put("x" * 20)


# What a stranger may have put; each with a pickle that says when it is run.
FORGED = {
    "unsigned": lambda data: data,
    "unknown key": lambda data: seal(OTHER, "apples/pickle", "pickle", "bytes", data),
    "another queue": lambda data: seal(OLD, "pears/pickle", "pickle", "bytes", data),
    "another codec": lambda data: seal(OLD, "apples/pickle", "marshal", "bytes", data),
    "another kind": lambda data: seal(OLD, "apples/pickle", "pickle", "text", data),
    "another content": lambda data: seal(OLD, "apples/pickle", "pickle", "bytes", b"x")[:81] + data,
    "no seal": lambda data: b"pgq_py-signed-1:" + data,
    "zeros": lambda data: SEALED.encode() + data,
    "capitals": lambda data: seal(OLD, "apples/pickle", "pickle", "bytes", data)[:81].upper() + data,
    "another version": lambda data: seal(OLD, "apples/pickle", "pickle", "bytes", data).replace(b"-1:", b"-2:", 1),
}


@pytest.mark.parametrize("how", ["get", "lease", "take", "get_many"])
@pytest.mark.parametrize("kind", FORGED)
async def test_what_is_forged_is_dead_before_it_is_run(world, conn, tmp_path, kind, how):
    marker = tmp_path / "ran"
    forged = FORGED[kind](pickle.dumps(Marker(marker)))
    queue = world.pq(secret=[NEW, OLD])["apples/pickle"]
    (id,) = conn.execute("select queue_put('apples/pickle', data_bytes => %s, headers => '[1]')", [forged]).fetchone()
    await queue.put("fine")
    if how == "get":
        job = await queue.get(block=False)
    elif how == "lease":
        job = await queue.lease(block=False)
    elif how == "get_many":
        (job,) = await queue.get_many(5)
    else:
        async with queue.take(block=False) as job:
            pass
    assert job.data == "fine"
    (dead,) = await queue.dead()
    assert (dead.id, dead.headers) == (id, [1])
    assert "sign" in dead.reason
    assert conn.execute("select data_bytes from queue_dead").fetchone() == (forged,)
    with pytest.raises(errors.DecodeError):
        _ = dead.data
    assert not marker.exists()


@pytest.mark.parametrize(
    "insert",
    [
        "data_text => 'cos\nsystem\n.'",
        f"data_text => '{SEALED}cos\nsystem\n.'",
        """data => '"cos\\nsystem\\n."'""",
        f"""data => '"{SEALED}cos"'""",
        "data => 'null'",
    ],
)
@pytest.mark.parametrize("secret", [None, OLD])
async def test_what_is_no_pickle_is_dead_in_a_queue_of_pickles(world, conn, insert, secret, monkeypatch):
    ran: list[Any] = []
    monkeypatch.setattr("os.system", ran.append)
    queue = world.pq(secret=secret)["apples/pickle"]
    conn.execute(f"select queue_put('apples/pickle', {insert})")
    await queue.put("fine")
    assert (await queue.get(block=False)).data == "fine"
    assert len(await queue.dead()) == 1
    assert ran == []


@pytest.mark.parametrize("secret", [None, OLD])
async def test_a_job_can_not_choose_its_codec(world, conn, tmp_path, secret):
    """In a queue of JSON nothing but JSON is read, whatever it looks like and however well it is signed."""
    marker = tmp_path / "ran"
    data = pickle.dumps(Marker(marker))
    queue = world.pq(secret=secret)["apples"]
    for stored in (data, seal(OLD, "apples", "pickle", "bytes", data), seal(OLD, "apples", "json", "bytes", b"1")):
        conn.execute("select queue_put('apples', data_bytes => %s)", [stored])
    for stored in ("1", "cos\nsystem\n.", SEALED + "1"):
        conn.execute("select queue_put('apples', data_text => %s, headers => '{\"codec\": \"pickle\"}')", [stored])
    looks = ['{"codec": "pickle", "py/reduce": [1]}', '"apples/pickle"', '{"serializer": "pickle"}']
    for text in looks:
        conn.execute("select queue_put('apples', %s::jsonb, headers => '{\"codec\": \"pickle\"}')", [text])
    # The last three are JSON, and come as they are.
    assert [job.data for job in await queue.get_many(9)] == [
        {"codec": "pickle", "py/reduce": [1]},
        "apples/pickle",
        {"serializer": "pickle"},
    ]
    assert [dead.reason for dead in await queue.dead()] == [
        "the job holds text or bytes, and this queue reads JSON: open it with its serializer"
    ] * 6
    assert not marker.exists()


async def test_a_signed_job_is_not_read_without_the_secret(world, tmp_path):
    marker = tmp_path / "ran"
    queue = world.pq(secret=OLD)["apples/pickle"]
    await queue.put(Marker(marker))
    blind = world.pq()["apples/pickle"]
    await blind.put("fine")
    assert (await blind.get(block=False)).data == "fine"
    (dead,) = await blind.dead()
    assert "give this PQ the secret" in dead.reason
    # Nothing is lost: who has the secret reads it.
    assert await queue.redrive() == 1
    assert not marker.exists()
    assert await queue.get(block=False)
    assert marker.exists()


async def test_a_set_of_queues_checks_each_with_its_name(world, conn):
    pq = world.pq(secret=OLD)
    await pq["a/pickle"].put({1})
    # The same bytes in the neighbouring queue.
    conn.execute("select queue_put('b/pickle', data_bytes => (select data_bytes from queue_job))")
    both = pq["b/pickle", "a/pickle"]
    assert (await both.get(block=False)).data == {1}
    assert len(await pq["b/pickle"].dead()) == 1


async def test_keys_are_changed_in_three_steps(world, conn):
    """Everywhere the new key after the old; then before it; then alone, when the last old job is done."""
    steps = [world.pq(secret=keys)["apples/pickle"] for keys in (OLD, [OLD, NEW], [NEW, OLD], NEW)]
    # Whoever is a step ahead and whoever is behind read each other's jobs.
    for behind, ahead in pairwise(steps):
        await behind.put({"behind"})
        assert (await ahead.get(block=False)).data == {"behind"}
        await ahead.put({"ahead"})
        assert (await behind.get(block=False)).data == {"ahead"}
    # Who was too quick finds the old jobs among the dead, and has lost none.
    first, _, third, last = steps
    await first.put({"old"})
    assert await last.get(block=False) is None
    assert "not by a key" in (await last.dead())[0].reason
    assert await last.redrive() == 1
    assert (await third.get(block=False)).data == {"old"}


async def test_old_jobs_are_signed_where_they_are(world):
    """As docs/design/pickles.md says: by somebody who trusts all who could put them."""
    plain, signed = world.pq()["apples/pickle"], world.pq(secret=OLD)["apples/pickle"]
    await plain.put_many([{1}, {2}])
    await plain.put({3}, "1h")
    for job in await plain.list(scheduled=True):
        assert await signed.update(job.id, job.data)
    assert [job.data for job in await signed.list(scheduled=True)] == [{1}, {2}, {3}]


# What unpickling may do


class Raises:
    """Unpickled, it raises."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return exec, (f"raise {self.error}",)


@pytest.mark.parametrize("error", ["SystemExit(3)", "RecursionError", "MemoryError", "ImportError", "StopIteration"])
async def test_what_raises_when_unpickled_is_dead_and_the_loop_goes_on(world, error):
    queue = world.pq(secret=OLD)["apples/pickle"]
    await queue.put(Raises(error))
    await queue.put("fine")
    assert (await queue.lease(block=False)).data == "fine"
    (dead,) = await queue.dead()
    assert error.split("(", 1)[0] in dead.reason


async def test_a_program_that_exits_when_it_is_imported_ends_no_worker(world, tmp_path, monkeypatch, conn):
    (tmp_path / "a_program_that_exits.py").write_text("class Apple: pass\nraise SystemExit(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    queue = world.pq()["apples/pickle"]
    conn.execute("select queue_put('apples/pickle', data_bytes => %s)", [b"ca_program_that_exits\nApple\n."])
    await queue.put("fine")
    assert (await queue.get(block=False)).data == "fine"
    assert "SystemExit" in (await queue.dead())[0].reason
    assert "a_program_that_exits" not in sys.modules


async def test_control_c_while_unpickling_gives_the_job_back(world):
    queue = world.pq(secret=OLD)["apples/pickle"]
    await queue.put(Raises("KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        await queue.lease(block=False)
    assert await queue.count() == 1
    assert await queue.dead() == []


async def test_a_class_that_is_gone_leaves_the_job_dead_and_whole(world, monkeypatch):
    queue = world.pq(secret=OLD)["apples/pickle"]
    id = await queue.put(Other())
    monkeypatch.delattr(sys.modules[__name__], "Other")
    await queue.put("fine")
    assert (await queue.get(block=False)).data == "fine"
    monkeypatch.undo()
    (dead,) = await queue.dead()
    assert (dead.id, "AttributeError" in dead.reason) == (id, True)
    assert await queue.redrive() == 1
    assert isinstance((await queue.get(block=False)).data, Other)
