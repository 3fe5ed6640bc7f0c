"""The command that shows a report."""

import threading
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.report.__main__ import main


@pytest.fixture
def run(tmp_path):
    (tmp_path / "report.html").write_text("<!doctype html><title>ä</title>", encoding="utf-8")
    (tmp_path / "predictions.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", [".", "report.html"])
def test_the_page_alone_is_served_to_this_machine_alone(run, name, monkeypatch, capsys):
    servers, started, serve = [], threading.Event(), ThreadingHTTPServer.serve_forever

    def recorded(server):
        servers.append(server)
        started.set()
        serve(server)

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", recorded)
    thread = threading.Thread(target=main, args=([str(run / name), "--port=0"],))
    thread.start()
    assert started.wait(30)
    host, port = servers[0].server_address
    connection = HTTPConnection(host, port)
    answers = []
    for path in ("/", "/predictions.json", "/../report.html"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answers.append((answer.status, answer.read().decode()))
        connection.close()
    servers[0].shutdown()
    thread.join(30)
    assert host == "127.0.0.1"
    assert answers[0] == (200, (run / "report.html").read_text(encoding="utf-8"))
    assert [status for status, _ in answers[1:]] == [404, 404]
    assert f"http://127.0.0.1:{port}/ shows " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: not a report"),
        (["predictions.json"], "not a report"),
        ([".", "--port=70000"], "70000"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, words, monkeypatch):
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match=words):
        main(arguments)


def test_a_port_in_use(run):
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), None) as other,
        pytest.raises(InputError, match="in use; give another"),
    ):
        main([str(run), f"--port={other.server_address[1]}"])
