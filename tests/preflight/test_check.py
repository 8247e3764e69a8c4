"""`nearfar check`: a good run passes with its gradient shown; what is wrong is named all at once; a
wrong gradient is not let through.
"""

import json
import re
import shutil
import time
from pathlib import Path

import forked
import pytest
import torch
import typer
from killable import Command
from ranks import free_port

from trainer.cli.check import check
from trainer.preflight.check import check_run
from trainer.preflight.disk import free_bytes, model_bytes
from trainer.preflight.findings import Findings
from trainer.preflight.gradient import add_comparison, run_probe
from trainer.preflight.memory import weight_needs
from trainer.preflight.planned_run import PlannedRun, Request
from trainer.strategies.machine.plan import Plan
from trainer.strategies.probe import compare_gradients, plain_gradient

REPOSITORY = Path(__file__).parents[2]
RECIPE, MACHINES = Path("recipes/quickstart.yaml"), Path("launch/accelerate")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def toy(toy_folder, tmp_path):
    """Overrides that make the quickstart's recipe one of seconds."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {
            "query": f"how to {verb} a {thing} {number}",
            "positive": f"{thing} {verb} {number}{' and more of it' * number}",
        }
        for verb in ("create", "delete", "list")
        for thing in ("disk", "database", "machine")
        for number in range(4)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "toy",
        "output": tmp_path / "runs",
        "data.train": pairs,
        "model.backbone": toy_folder("bert"),
        "optimization.batch_size": 8,
        "model.tuning.dropout": 0.3,
        "validation.every_steps": 2,
    }
    return [f"{key}={value}" for key, value in values.items()]


@pytest.fixture
def late_folder(toy_folder, tmp_path):
    from trainer.models.formats.folder import save_encoder
    from trainer.models.late_interaction import (
        LateInteractionSettings,
        build_late_interaction_encoder,
    )

    save_encoder(
        build_late_interaction_encoder(
            LateInteractionSettings(
                backbone=str(toy_folder("bert")), projection_dimensions=8, lora=None
            )
        ),
        tmp_path / "late",
    )
    return tmp_path / "late"


def nearfar_check(recipe, machine, *more):
    return forked.nearfar("check", recipe, "--machine", machine, *more, folder=REPOSITORY)


def lines_of(output):
    """(verdict, what) of every finding."""
    found = [
        re.match(r"(ok|warning|wrong|skipped) +([^:]+): ", line) for line in output.splitlines()
    ]
    return [match.groups() for match in found if match]


# ---------------------------------------------------------------- a run that is right


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tuning", "more"),
    [
        ("ddp", "lora", ["refresh={negatives: 1, every_steps: 2, max_documents: 1}"]),
        ("fsdp2", "full", []),
        ("zero3", "lora", []),
    ],
    ids=["ddp, too many documents for mining", "fsdp2", "zero3"],
)
def test_good_run_passes_and_shows_its_gradient(toy, kind, tuning, more):
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    overrides = [
        *(word for word in toy if tuning == "lora" or "dropout" not in word),
        f"model.tuning.kind={tuning}",
        "objective.learn_temperature=true",
        *more,
    ]
    ended = nearfar_check(RECIPE, MACHINES / f"cpu-2-{kind}.yaml", *overrides)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("no problems found\n")
    seen = re.search(
        rf"ok +gradient on 2 ranks \({kind}\) against one: norm ratio ([0-9.]+), cosine"
        r" ([0-9.]+)\n",
        ended.stdout,
    )
    assert seen, ended.stdout
    assert [float(number) for number in seen.groups()] == pytest.approx([1, 1], abs=1e-5)
    looked_at = {what for verdict, what in lines_of(ended.stdout) if verdict == "ok"}
    assert looked_at >= {
        "recipe",
        "machine",
        "batch",
        "run folder",
        "data",
        "objective",
        "steps",
        "model",
        "lengths",
        "memory",
        "disk",
    }
    assert not Path(toy[1].partition("=")[2]).exists()  # nothing of the run was made


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_good_run_passes_on_one_gpu(toy):
    ended = nearfar_check(RECIPE, MACHINES / "gpu-1.yaml", *toy)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ("ok", "gradient on 1 rank (single) against one") in lines_of(ended.stdout)


@pytest.mark.slow
def test_ranks_that_exceed_the_time_limit_are_ended_and_named(toy):
    before = time.monotonic()
    ended = nearfar_check(RECIPE, MACHINES / "cpu-2-ddp.yaml", *toy, "--probe-timeout-seconds", "3")
    assert ended.returncode == 2
    assert "wrong    gradient: the 2 ranks did not finish within 3 seconds" in ended.stdout
    assert time.monotonic() - before < 90
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [
        command
        for command in commands
        if b"--as-rank" in command and toy[0].encode() in command and toy[2].encode() in command
    ]


@pytest.mark.slow
def test_error_of_a_failed_rank_is_shown(toy, tmp_path):
    """The ranks are given another model than the one that was looked at."""
    from trainer.build.data import data_sets
    from trainer.errors import BadMachine
    from trainer.recipe.load import load_recipe
    from trainer.strategies.machine.machine_file import plan_from_file

    machine = MACHINES / "cpu-2-ddp.yaml"
    run, plan = load_recipe(RECIPE, toy), plan_from_file(machine)
    data = data_sets(run.data, run.seed)
    with pytest.raises(
        BadMachine, match=r"ranks ended with exit code 2 .* They printed:\n  error: .*nowhere"
    ):
        run_probe(
            Request(RECIPE, machine, [*toy, f"model.backbone={tmp_path / 'nowhere'}"]),
            PlannedRun(run, frozenset(type(run).model_fields), plan, plan_fits_here=True),
            plan,
            data,
            120,
            Findings(),
        )


@pytest.mark.slow
def test_gradient_check_includes_the_teacher(toy, toy_folder, late_folder):
    """Of teachers alone, of either family, and of the first layers of the student."""
    taught = [
        (
            f"teacher={{kind: distribution, models: [{toy_folder('roberta')}, {late_folder}],"
            " objective_weight: 0}"
        ),
        "matryoshka={layers: [2, 1]}",
    ]
    ended = nearfar_check(RECIPE, MACHINES / "cpu-2-ddp.yaml", *toy, *taught)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"ok +gradient on 2 ranks .*: norm ratio (1\.0000|0\.9999)", ended.stdout), (
        ended.stdout
    )
    assert (
        len(
            re.findall(
                r"ok +teacher: .* encodes \d+ training texts, once; kept in .*, about 1 MB;"
                r" until then its weights take 1 MB",
                ended.stdout,
            )
        )
        == 2
    )
    assert not Path(toy[1].partition("=")[2]).exists()


@pytest.mark.parametrize("late", [False, True])
def test_disk_space_of_repeated_mining_is_counted(toy, late_folder, late, monkeypatch, capsys):
    """Texts and vectors of all documents, float32: one a document, or some twenty."""
    from trainer.build.data import data_sets
    from trainer.recipe.load import load_recipe

    of_others, dimensions = [], []

    def look(findings, run, encoder, others):
        of_others.append(others)
        dimensions.append(encoder.dimensions)

    monkeypatch.setattr("trainer.preflight.disk.check_disk", look)
    more = (
        [
            "kind=colbert",
            f"model.backbone={late_folder}",
            "model.pooling=null",
            "objective.temperature=1.0",
        ]
        if late
        else []
    )
    for refresh in ([], ["refresh={every_steps: 2, negatives: 1}"]):
        check(RECIPE, MACHINES / "cpu-1.yaml", [*toy, *more, *refresh], no_probe=True)
    run = load_recipe(RECIPE, toy)
    train = data_sets(run.data, run.seed).train
    documents = {train[number].positive for number in range(len(train))}
    assert of_others[0] == 0
    vectors = (of_others[1] - sum(map(len, documents))) / (4 * dimensions[1])
    assert (
        10 * len(documents) < vectors < 40 * len(documents) if late else vectors == len(documents)
    )


def test_gradient_check_keeps_the_teacher(toy, late_folder):
    """Without one the ranks would still agree, on another gradient than the run's."""
    from trainer.preflight.rank_part import _exact
    from trainer.recipe.load import load_recipe

    run = load_recipe(RECIPE, [*toy, f"teacher={{kind: distribution, models: [{late_folder}]}}"])
    assert _exact(run).teacher == run.teacher is not None


def test_teacher_is_checked(toy, toy_folder, tmp_path, capsys):
    from trainer.build.students import vectors_folder
    from trainer.data.rows import Row
    from trainer.models.dense import read_encoder
    from trainer.recipe.load import load_recipe
    from trainer.retrieval.encoding.taught_vectors import taught_vectors

    taught = [*toy, f"teacher={{kind: distribution, models: [{toy_folder('bert')}]}}"]
    run = load_recipe(RECIPE, taught)
    taught_vectors(
        vectors_folder(run, str(toy_folder("bert"))),
        read_encoder(str(toy_folder("bert"))),
        [Row("another query", "another text")],
        0,
    )
    with pytest.raises(typer.Exit):
        check(RECIPE, MACHINES / "cpu-2-ddp.yaml", taught, no_probe=True)
    assert re.search(r"wrong +teacher: .* was made of other data", capsys.readouterr().out)
    with pytest.raises(typer.Exit):
        check(
            RECIPE,
            MACHINES / "cpu-2-ddp.yaml",
            [*taught, "teacher.models=[/nowhere]"],
            no_probe=True,
            replace=True,
        )
    assert re.search(r"wrong +teacher: .*/nowhere", capsys.readouterr().out)
    check(RECIPE, MACHINES / "cpu-2-ddp.yaml", taught, no_probe=True, replace=True)
    assert re.search(r"ok +teacher: .* again, about 1 MB", capsys.readouterr().out)


# ---------------------------------------------------------------- what is wrong, all at once


def test_all_faults_are_named_in_one_run(toy, tmp_path, capsys):
    recipe, machine = tmp_path / "recipe.yaml", tmp_path / "machine.yaml"
    text = (
        RECIPE.read_text()
        .replace("batch_size: 128", "batch_size: 15")
        .replace(
            "data/azure-cli", f"{tmp_path / 'none.jsonl'}\n  test: {tmp_path / 'no-test.jsonl'}"
        )
    )
    recipe.write_text(f"{text}objective:\n  temprature: 0.05\n")
    machine.write_text((MACHINES / "cpu-2-zero3.yaml").read_text() + "mixed_precision: fp8\n")
    with pytest.raises(typer.Exit) as ended:
        check(
            recipe, machine, [word for word in toy if not word.startswith(("data", "optimization"))]
        )
    output = capsys.readouterr().out
    assert ended.value.exit_code == 2
    for place, said in {
        "recipe": "did you mean objective.temperature",
        "machine": "mixed_precision 'fp8' is not supported",
        "batch": "set it to 14 or 16",
        "data": "none.jsonl does not exist",
    }.items():
        assert re.search(rf"^wrong +{place}: .*{re.escape(said)}", output, re.MULTILINE), (
            place,
            output,
        )
    assert "no-test.jsonl does not exist" in output
    assert ("ok", "model") in lines_of(output)  # which could be looked at all the same
    assert "5 problems found" in output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["optimization.batch_size=64"],
            r"wrong +steps: .* training rows do not fill one batch of 64",
        ),
        (["objective={kind: cosent}"], r"wrong +objective: objective.kind=cosent needs a score"),
        (["model.backbone=/nowhere"], r"wrong +model: .*/nowhere"),
        (
            ["machine.accelerator=cuda"],
            (
                r"wrong +recipe and machine: the recipe says machine.accelerator=cuda, but"
                r" the machine file says cpu"
            ),
        ),
        (["machine.precision=fp16"], r"wrong +memory: precision fp16 needs a GPU"),
        (["output=/dev/null"], r"wrong +run folder: /dev/null/toy cannot be created"),
        pytest.param(
            ["output=/proc/nowhere"],
            r"wrong +(disk: the run writes|run folder: .* is read-only)",
            id="no room",
        ),
    ],
)
def test_fault_is_found(toy, changes, said, capsys):
    with pytest.raises(typer.Exit) as ended:
        check(RECIPE, MACHINES / "cpu-2-ddp.yaml", [*toy, *changes], no_probe=True)
    assert ended.value.exit_code == 2
    output = capsys.readouterr().out
    assert re.search(said, output), output
    assert "1 problem found" in output


def test_run_of_one_process_is_checked_without_a_machine_file(toy, capsys):
    check(RECIPE, overrides=toy)
    output = capsys.readouterr().out
    assert "no machine file: one process, as for `nearfar fit`" in output
    assert "8 queries per step, 8 on each rank" in output
    assert "skipped  gradient: one process has no other ranks to compare" in output
    checked = {what for verdict, what in lines_of(output) if verdict == "ok"}
    assert checked >= {"recipe", "machine", "data", "objective", "model", "memory", "disk"}


def test_fault_of_a_run_of_one_process_is_found(toy, capsys):
    with pytest.raises(typer.Exit) as ended:
        check(RECIPE, overrides=[*toy, "data.train=nowhere.jsonl"])
    assert ended.value.exit_code == 2
    assert re.search("wrong +data: nowhere.jsonl does not exist", capsys.readouterr().out)


@pytest.mark.parametrize(
    "options", [{"nodes": 2}, {"node_rank": 0}, {"main_address": "127.0.0.1:1"}]
)
def test_nodes_need_a_machine_file(toy, options):
    with pytest.raises(typer.BadParameter, match="give --machine FILE"):
        check(RECIPE, overrides=toy, **options)


def test_findings_are_returned_and_shown_when_they_are_made(toy):
    shown = []
    request = Request(RECIPE, MACHINES / "cpu-2-ddp.yaml", [*toy, "objective={kind: cosent}"])
    findings = check_run(request, probe_timeout_seconds=None, show=shown.append)
    assert shown == findings.entries
    assert [finding.subject for finding in shown if finding.severity == "wrong"] == ["objective"]
    assert findings.faults == 1


def test_unreadable_recipe_does_not_hide_faults_of_the_machine(tmp_path, capsys):
    with pytest.raises(typer.Exit):
        check(tmp_path / "none.yaml", MACHINES / "cpu-2-ddp.yaml")
    assert lines_of(capsys.readouterr().out) == [("wrong", "recipe"), ("ok", "machine")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_file_for_another_machine_is_no_fault(toy, capsys):
    check(RECIPE, MACHINES / "zero3-offload.yaml", toy)
    output = capsys.readouterr().out
    assert re.search(
        r"warning +memory: about .* in the machine's memory.* cannot be checked on this machine",
        output,
    )
    assert "skipped  gradient: it cannot be checked on this machine" in output
    assert "no problems found" in output


def test_run_on_several_nodes_is_checked_from_one(toy):
    request = Request(RECIPE, MACHINES / "cpu-2-ddp.yaml", toy, nodes=2)
    findings = {finding.subject: finding for finding in check_run(request).entries}
    assert "ddp, 4 ranks on 2 nodes, cpu" in findings["machine"].text
    assert findings["batch"].text == "8 queries per step, 2 on each rank"
    assert findings["gradient"].severity == "skipped"
    assert "the run is for 2 nodes" in findings["gradient"].text
    assert "--node-rank 0 to 1 and --main-address HOST" in findings["gradient"].text


def check_on_two_nodes(tmp_path, toy, environment=None):
    """Exit code and output of `nearfar check` on each of two nodes with one rank. The second has
    some other variables.
    """
    machine = tmp_path / "machine.yaml"
    machine.write_text((MACHINES / "cpu-2-ddp.yaml").read_text().replace("es: 2", "es: 1"))
    words = ["check", RECIPE, *toy, "--machine", machine, "--nodes", 2]
    words += ["--main-address", f"127.0.0.1:{free_port()}", "--node-rank"]
    nodes = [Command(*words, 0), Command(*words, 1, environment=environment)]
    return [(node.wait()[0], node.text()) for node in nodes]


@pytest.mark.slow
def test_several_nodes_are_checked_from_all_of_them(tmp_path, toy):
    (code, first), (other_code, other) = check_on_two_nodes(tmp_path, toy)
    assert (code, other_code) == (0, 0), first + other
    assert re.search(r"ok +nodes: 2 ranks on 1 node, with the same versions: all-reduce", first)
    assert re.search(r"ok +gradient on 2 ranks \(ddp\) against one: norm ratio (1.0|0.9)", first)
    assert "ok       gradient: its comparison is printed on the first machine" in other


@pytest.mark.slow
def test_node_with_other_code_is_named_on_all_of_them(tmp_path, toy):
    shutil.copytree(REPOSITORY / "trainer", tmp_path / "trainer")
    (tmp_path / "trainer/losses.py").open("a").write("\n")
    environment = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
    for code, text in check_on_two_nodes(tmp_path, toy, environment):
        assert code == 2, text
        assert re.search(r"wrong +gradient: the 2 ranks ended with exit code 2 ", text)
        assert re.search(r"rank [01] on .* has code of nearfar", text)


def test_long_texts_are_counted(toy, capsys):
    check(
        RECIPE,
        MACHINES / "cpu-2-ddp.yaml",
        [*toy, "model.document_max_length_tokens=10"],
        no_probe=True,
    )
    output = capsys.readouterr().out
    assert re.search(r"ok +lengths: 0 of \d+ sampled query texts", output)
    cut, texts = map(
        int,
        re.search(
            r"warning +lengths: (\d+) of (\d+) sampled document texts are longer than 10 tokens",
            output,
        ).groups(),
    )
    assert 0 < cut < texts


# ---------------------------------------------------------------- the gradient


def test_wrong_gradient_is_a_fault():
    plan = Plan("ddp", 2, 1, 2)
    wanted = {"weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "bias": torch.tensor([1.0])}
    spoilt = {
        "times the ranks": {name: 2 * value for name, value in wanted.items()},
        "one weight left out": wanted | {"bias": torch.zeros(1)},
        "turned": wanted | {"weight": wanted["weight"].T.flip(0)},
        "not a number": wanted | {"bias": torch.tensor([torch.nan])},
        "zero": {name: 0 * value for name, value in wanted.items()},
    }
    findings = Findings()
    for number, wrong in enumerate(spoilt.values(), start=1):
        add_comparison(findings, plan, compare_gradients(wrong, wanted))
        assert findings.faults == number, findings.entries
    add_comparison(findings, plan, compare_gradients(wanted, wanted))
    assert findings.faults == len(spoilt)
    assert (
        str(findings.entries[-1])
        == "ok       gradient on 2 ranks (ddp) against one: norm ratio 1.0000000, cosine 1.0000000"
    )


def test_wrong_gradient_of_the_ranks_ends_with_code_2(toy, monkeypatch, capsys):
    wanted = {"weight": torch.ones(3)}
    monkeypatch.setattr(
        "trainer.preflight.gradient.run_probe",
        lambda *_: compare_gradients({"weight": 2 * torch.ones(3)}, wanted),
    )
    with pytest.raises(typer.Exit) as ended:
        check(RECIPE, MACHINES / "cpu-2-ddp.yaml", toy)
    assert ended.value.exit_code == 2
    assert "norm ratio 2.0000000, cosine 1.0000000; both must be 1" in capsys.readouterr().out


def test_two_zero_gradients_prove_nothing():
    findings = Findings()
    add_comparison(
        findings,
        Plan("ddp", 2, 1, 2),
        compare_gradients({"weight": torch.zeros(2)}, {"weight": torch.zeros(2)}),
    )
    assert findings.faults == 0
    assert str(findings.entries[0]).startswith("warning  gradient on 2 ranks")


def test_plain_gradient_is_that_of_the_loss():
    layer = torch.nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    found = plain_gradient(layer, lambda: layer(torch.tensor([[1.0, 2.0]])).sum() ** 2 / 2)
    value = layer(torch.tensor([[1.0, 2.0]])).item()
    assert list(found) == ["weight"]
    assert found["weight"].tolist() == [pytest.approx([value, 2 * value])]


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize(
    ("plan", "bytes_"),
    [
        (Plan("single", 1, 1, 1), 16 * 110),
        (Plan("ddp", 2, 1, 2), 16 * 110),
        (Plan("fsdp2", 2, 1, 2), 16 * 55 + 4 * 110),
        (
            Plan("zero1", 2, 1, 2, deepspeed={"zero_optimization": {"stage": 1}}),
            4 * 110 + 4 * 110 + 12 * 55,
        ),
        (
            Plan("zero2", 2, 1, 2, deepspeed={"zero_optimization": {"stage": 2}}),
            4 * 110 + 4 * 55 + 12 * 55,
        ),
        (
            Plan("zero3", 2, 1, 2, deepspeed={"zero_optimization": {"stage": 3}}),
            4 * 110 + 4 * 55 + 4 * 55 + 12 * 55,
        ),
    ],
)
def test_memory_of_weights_gradients_and_state_depends_on_the_strategy(plan, bytes_):
    model = torch.nn.ModuleList([torch.nn.Linear(10, 10)])  # 110 weights, one block
    wanted = bytes_ + (
        4 * 110 if plan.kind == "fsdp2" else 0
    )  # the block that runs, and room for the next
    assert sum(need.amount for need in weight_needs(plan, torch.nn.Sequential(model))) == wanted
    assert model_bytes(model, 2) - model_bytes(model, 1) == 4 * 4 * 110
    assert free_bytes(Path("/nowhere/yet")) > 0


def test_offloaded_state_counts_as_cpu_memory():
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    needs = weight_needs(
        Plan("zero3", 2, 1, 2, deepspeed={"zero_optimization": zero}), torch.nn.Linear(10, 10)
    )
    assert [need.part for need in needs if not need.on_machine] == ["gathered weights"]
