def test_put_and_get(conn):
    (id,) = conn.execute("""select queue_put('apples', '{"kind": "Cox"}')""").fetchone()
    assert conn.execute("select id, data from queue_get('apples')").fetchall() == [(id, {"kind": "Cox"})]
    assert conn.execute("select id, data from queue_get('apples')").fetchall() == []
