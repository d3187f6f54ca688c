"""Names and addresses: every plugin is found, or the error says which one and why."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

import harness.registry
from harness import API_VERSION
from harness.encoder import EncoderRetriever
from harness.errors import ClamrBenchError, PluginError, UsageError
from harness.plugin import About
from harness.registry import RETRIEVERS, TASKS, make_retriever, make_task
from harness.retriever import Retriever

GOOD = """\
from harness.plugin import About
from harness.retriever import Capabilities, Retriever
from harness.settings import Settings
from harness.types import Modality, Ranking

class MineSettings(Settings):
    depth: int = 3

class Mine(Retriever):
    about = About(title="Mine", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=frozenset({Modality.ASR}))
    Settings = MineSettings
    weights_help = "a path"
    api_version = 1

    def index(self, documents, workspace):
        pass

    def search(self, queries, k):
        return Ranking({})
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points as they would be installed: fill the list; one module holds good plugins."""
    entries: list[EntryPoint] = []
    module = types.ModuleType("fake_plugins")
    exec(GOOD, vars(module))  # noqa: S102
    monkeypatch.setitem(sys.modules, "fake_plugins", module)
    monkeypatch.setattr(
        harness.registry, "entry_points", lambda group: [e for e in entries if e.group == group]
    )
    return entries


def entry(name: str, target: str = "fake_plugins:Mine", kind: str = "retrievers") -> EntryPoint:
    return EntryPoint(name, target, f"clamr_bench.{kind}")


def file(folder: Path, source: str = GOOD, name: str = "mine.py") -> Path:
    (folder / name).write_text(source)
    return folder / name


# --- Names ------------------------------------------------------------------------------------


def test_every_built_in_loads_and_declares_itself() -> None:
    for registry in (TASKS, RETRIEVERS):
        assert registry.names() == sorted(e.name for e in entry_points(group=registry.group))
        for name, plugin in registry.everything():
            assert not isinstance(plugin, PluginError), plugin
            assert plugin.about.licence, name
            assert plugin.about.citation, name
            keys = [(key, info.description) for key, info in plugin.Settings.model_fields.items()]
            assert all(description for _, description in keys), f"{name}: {keys}"


def test_an_address_is_a_name_and_the_rest(installed: list[EntryPoint]) -> None:
    installed += [entry("mine"), entry("mine/special"), entry("other")]
    assert RETRIEVERS.names() == ["mine", "mine/special", "other"]
    for address, name, rest in [
        ("mine", "mine", ""),
        ("mine/special", "mine/special", ""),
        ("mine/org/model", "mine", "org/model"),
    ]:
        found = RETRIEVERS.find(address)
        assert (found.name, found.rest) == (name, rest)
    retriever = make_retriever("mine/org/model", {"depth": 5})
    assert (retriever.address, retriever.weights) == ("mine/org/model", "org/model")
    assert retriever.settings.model_dump() == {"depth": 5}
    assert make_retriever("mine").weights is None


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mien", r"unknown retriever 'mien'\. Did you mean 'mine'\?"),
        ("mine.py", r"unknown retriever 'mine\.py'.*path/to/file\.py:Class"),
        ("zzz", r"unknown retriever 'zzz'\. `clamr-bench retrievers` lists"),
        ("", "unknown retriever ''"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(
    installed: list[EntryPoint], address: str, says: str
) -> None:
    installed.append(entry("mine"))
    with pytest.raises(UsageError, match=says):
        make_retriever(address)


def test_an_unknown_task_or_variant() -> None:
    with pytest.raises(UsageError, match="Did you mean 'multivent/v1'"):
        make_task("multivent/v2")
    with pytest.raises(UsageError, match="Did you mean 'multivent/v1'"):
        make_task("multivent/v1/x")
    plugin = TASKS.find("multivent/v1").plugin
    with pytest.raises(UsageError, match=r"'t' has no variant 'x'; there are t\."):
        plugin("t", "x", plugin.Settings())


def test_settings_name_their_plugin(installed: list[EntryPoint]) -> None:
    installed.append(entry("mine"))
    with pytest.raises(UsageError, match=r"setting of mine: 'dept' .*Did you mean 'depth'"):
        make_retriever("mine", {"dept": 3})


def test_weights_where_none_are_taken(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD.replace('"a path"', '""'))
    with pytest.raises(UsageError, match=r"'Mine' takes no weights, .* says 'x'; use 'Mine' alone"):
        make_retriever(f"{path}:Mine/x")


# --- Plugins that fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no_such_module:Mine", r"\(no_such_module:Mine\) failed to load: ModuleNotFoundError"),
        ("fake_plugins:Nothing", "failed to load: AttributeError"),
        ("leaving_plugins:Mine", "failed to load: SystemExit: 3"),
        ("fake_plugins:MineSettings", "is not a subclass of Retriever"),
        ("harness.registry:TASKS", "is not a subclass of Retriever"),
    ],
)
def test_a_broken_plugin_is_named(
    tmp_path: Path,
    installed: list[EntryPoint],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    says: str,
) -> None:
    (tmp_path / "leaving_plugins.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    installed.append(entry("broken", target))
    with pytest.raises(PluginError, match=f"retriever 'broken' .*{says}"):
        make_retriever("broken")


def test_one_broken_plugin_is_listed_beside_the_others(installed: list[EntryPoint]) -> None:
    installed += [entry("broken", "no_such_module:Mine"), entry("unrelated")]
    listed = dict(RETRIEVERS.everything())
    assert isinstance(listed["broken"], PluginError)
    assert isinstance(listed["unrelated"], type)


def test_two_packages_of_one_name(installed: list[EntryPoint]) -> None:
    installed += [entry("mine"), entry("mine", "other_package:Mine")]
    with pytest.raises(
        PluginError, match="registered more than once: fake_plugins:Mine, other_package:Mine"
    ):
        make_retriever("mine")
    installed[1] = entry("mine")
    assert make_retriever("mine").name == "mine", "one target listed twice is no collision"


def replaced(old: str, new: str) -> str:
    if old not in GOOD:
        pytest.fail(f"{old!r} is not in the plugin")
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("class Mine(", PluginError, "failed to load: SyntaxError"),
        ("import no_such_module", PluginError, "failed to load: ModuleNotFoundError"),
        ("raise SystemExit(3)", PluginError, "failed to load: SystemExit: 3"),
        ("1 / 0", PluginError, "failed to load: ZeroDivisionError"),
        ("Mine = 3", PluginError, "is not a subclass of Retriever"),
        ("class Mine: pass", PluginError, "is not a subclass of Retriever"),
        ("", UsageError, "no such class"),
        (replaced("class Mine(", "class Miné("), UsageError, "no such class. Did you mean 'Miné'?"),
        (replaced("def search", "def serach"), PluginError, "does not implement search"),
        (replaced("    about =", "    card ="), PluginError, "declares no `about`"),
        (replaced("About(title", "dict(title"), PluginError, "declares no `about`"),
        (
            replaced("api_version = 1", "api_version = 99"),
            PluginError,
            f"is written for plugin API 99, this clamr-bench has {API_VERSION}",
        ),
    ],
)
def test_a_file_that_is_no_plugin_says_why(
    tmp_path: Path, source: str, error: type[ClamrBenchError], says: str
) -> None:
    path = file(tmp_path, source)
    with pytest.raises(error) as caught:
        make_retriever(f"{path}:Mine")
    assert says in str(caught.value)
    assert f"retriever {path}:Mine" in str(caught.value)
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*nowhere\.py"):
        make_retriever(f"{tmp_path}/nowhere.py:Mine")


# --- Files ------------------------------------------------------------------------------------


def test_a_class_in_a_file(tmp_path: Path) -> None:
    path = file(tmp_path)
    retriever = make_retriever(f"{path}:Mine/some/weights", {"depth": 4})
    assert (retriever.name, retriever.weights) == ("Mine", "some/weights")
    assert retriever.identity()["source_sha256"] == retriever.source_sha256
    assert type(make_retriever(f"{path}:Mine")) is type(retriever), "loaded once"
    with pytest.raises(PluginError, match="is not a subclass of Task"):
        make_task(f"{path}:Mine")


def test_an_edited_file_is_run_as_it_is_now(tmp_path: Path) -> None:
    """Same size and same second: compiled code kept beside the file would not notice."""
    for depth in (3, 4, 5):
        path = file(tmp_path, replaced("depth: int = 3", f"depth: int = {depth}"))
        retriever = make_retriever(f"{path}:Mine")
        assert retriever.settings.model_dump() == {"depth": depth}
    prints = {
        make_retriever(f"{file(tmp_path, GOOD + tail)}:Mine").fingerprint for tail in ("", "#")
    }
    assert len(prints) == 2, "the file's digest is part of the identity"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one = make_retriever(f"{file(tmp_path / 'a')}:Mine")
    other = replaced('title="Mine"', 'title="Other"')
    two = make_retriever(f"{file(tmp_path, other)}:Mine")
    assert (one.about.title, two.about.title) == ("Mine", "Other")


ENCODER = '''\
from harness.encoder import Encoder
from harness.plugin import About
from harness.retriever import Capabilities
from harness.types import Modality

class Mine(Encoder):
    """Encodes."""
    about = About(title="Mine", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=frozenset({Modality.ASR}))

    def encode_queries(self, batch):
        raise NotImplementedError

    def encode_documents(self, batch):
        raise NotImplementedError
'''


def test_an_encoder_is_wrapped_as_a_retriever(tmp_path: Path) -> None:
    plugin = RETRIEVERS.find(f"{file(tmp_path, ENCODER)}:Mine").plugin
    assert issubclass(plugin, EncoderRetriever)
    assert issubclass(plugin, Retriever)
    assert (plugin.__name__, plugin.__doc__) == ("Mine", "Encodes.")
    assert isinstance(plugin.about, About)
    with pytest.raises(PluginError, match="does not implement encode_queries"):
        make_retriever(f"{file(tmp_path, ENCODER.replace('def encode_queries', 'def other'))}:Mine")
    without = ENCODER.replace("    about =", "    card =")
    with pytest.raises(PluginError, match="declares no `about`"):
        make_retriever(f"{file(tmp_path, without)}:Mine")
    with pytest.raises(UsageError, match="takes no weights"):
        make_retriever(f"{file(tmp_path, ENCODER)}:Mine/some")
