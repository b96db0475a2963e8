"""The options of an identity: what is taken, and each mistake as one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gossip_caffe.cli.main import cli
from gossip_caffe.errors import UsageError
from gossip_caffe.security.given import Given, identity, security_of
from gossip_caffe.security.security import PLAIN, Security
from tests.tls_files import Authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    Authority.make().issue(made, "p0")
    return made


def of(**words: Any) -> Security:
    return security_of(Given(**words), {})


def refused(text: str, environment: dict[str, str] | None = None, **words: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(text)) as refusal:
        security_of(Given(**words), environment or {})
    assert "\n" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_without_words_there_is_no_identity() -> None:
    assert of() == PLAIN
    assert of().arguments == ()


def test_a_folder_and_three_files_are_the_same_identity_and_are_passed_on_by_absolute_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    by_folder = of(tls_dir=folder.name)
    by_files = of(cacert=f"{folder.name}/ca.crt", cert=f"{folder}/tls.crt", key=f"{folder}/tls.key")
    assert by_folder == by_files
    assert by_folder.arguments == (
        *("--cacert", str(folder / "ca.crt"), "--cert", str(folder / "tls.crt")),
        *("--key", str(folder / "tls.key")),
    )


def test_a_folder_may_have_the_names_of_spiffe(folder: Path, tmp_path: Path) -> None:
    for there, here in (("ca.crt", "svid_bundle"), ("tls.crt", "svid"), ("tls.key", "svid_key")):
        shutil.copy(folder / there, tmp_path / f"{here}.pem")
    found = of(tls_dir=str(tmp_path)).tls
    assert found is not None
    assert found.cert == tmp_path / "svid.pem"


def test_words_of_the_command_count_more_than_the_environment_by_groups(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("hunter2\n")
    around = {
        "GOSSIP_CAFFE_TLS_DIR": str(folder),
        "GOSSIP_CAFFE_USER": "me",
        "GOSSIP_CAFFE_PASSWORD_FILE": str(secret),
    }
    found = security_of(Given(), around)
    assert found.tls is not None
    assert (found.user, found.password_file, found.password()) == ("me", secret, "hunter2")
    assert "hunter2" not in repr(found)
    plain = security_of(Given(insecure=True), around)
    assert (plain.tls, plain.insecure, plain.user) == (None, True, "me")
    assert plain.arguments == ("--user", "me", "--password-file", str(secret), "--insecure")
    assert security_of(Given(tls_dir=str(folder)), {"GOSSIP_CAFFE_INSECURE": "1"}).insecure is False


def test_contradictions_and_missing_parts_are_refused(folder: Path) -> None:
    refused("--insecure and certificate files contradict each other", tls_dir=str(folder), insecure=True)
    refused("--cacert without --cert and --key; give all three files", cacert=str(folder / "ca.crt"))
    refused("--tls-dir and --key name the same file twice", tls_dir=str(folder), key="k")
    refused("there is no such folder", tls_dir=str(folder / "none"))
    refused("--user me without --password-file", user="me")
    refused("--password-file without --user", password_file="f")
    refused("--user holds a colon", user="me:hunter2", password_file="f")
    refused("GOSSIP_CAFFE_INSECURE='maybe': neither yes nor no", {"GOSSIP_CAFFE_INSECURE": "maybe"})


def test_files_that_cannot_work_are_named(folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "tls"
    shutil.copytree(folder, here)

    def with_file(name: str, content: bytes, said: str) -> None:
        before = (here / name).read_bytes()
        (here / name).write_bytes(content)
        refused(said, tls_dir=str(here))
        (here / name).write_bytes(before)

    with_file("ca.crt", b"no", "ca.crt is no certificate in PEM form")
    with_file("tls.crt", b"no", "tls.crt is no certificate in PEM form")
    with_file("tls.key", b"no", "tls.key is no private key in PEM form")
    (tmp_path / "other").mkdir()
    other = Authority.make().issue(tmp_path / "other", "p1")
    assert other.tls is not None
    with_file("tls.key", other.tls.key.read_bytes(), "is not the key of the certificate")
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----\n"
    with_file("tls.key", encrypted, "tls.key")
    (here / "tls.crt").unlink()
    refused("lacks tls.crt", tls_dir=str(here))


def test_a_key_or_password_that_others_may_read_is_refused(folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "tls"
    shutil.copytree(folder, here)
    (here / "tls.key").chmod(0o644)
    refused(
        f"--key {here}/tls.key can be read or written by others (mode 0644); chmod 600 {here}/tls.key",
        tls_dir=str(here),
    )
    secret = tmp_path / "password"
    secret.write_text("hunter2")
    secret.chmod(0o640)
    refused("can be read or written by others (mode 0640)", user="me", password_file=str(secret))
    secret.chmod(0o600)
    secret.write_text("")
    refused("does not hold one line of text", user="me", password_file=str(secret))


def commands(
    group: click.Command, words: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(group, click.Group):
        return [(words, group)]
    context = click.Context(group)
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [
        each for name, command in found if command is not None for each in commands(command, (*words, name))
    ]


def test_every_command_that_reaches_etcd_or_peers_has_the_options_of_an_identity() -> None:
    wanted = {"--cacert", "--cert", "--key", "--tls-dir", "--user", "--password-file", "--insecure"}
    checked = []
    for words, command in commands(cli):
        options = {option for parameter in command.params for option in parameter.opts}
        if "--etcd" in options:
            assert wanted <= options, words
            checked.append(words)
    assert {("peer", "start"), ("train",), ("cluster", "up"), ("job", "create"), ("doctor",)} <= {*checked}


def test_a_mistake_is_one_line_and_exit_code_2(folder: Path) -> None:
    wrong = (
        ["--etcd", "http://h:2379", "--tls-dir", str(folder)],
        ["--etcd", "https://h:2379"],
        ["--etcd", "me:hunter2@h:2379"],
    )
    for words in wrong:
        done = CliRunner().invoke(cli, ["peer", "list", *words])
        assert isinstance(done.exception, UsageError), done.output
        assert done.exception.exit_code == 2


def test_a_script_gives_the_same_words(folder: Path) -> None:
    assert identity(tls_dir=folder) == of(tls_dir=str(folder))
