"""The locks: system call numbers, valid filters, and what `require_isolation` refuses."""

from __future__ import annotations

import platform
import struct

import pytest

from env_construction.sandbox import isolation, tool_sandbox
from env_construction.sandbox import processes as sandbox_processes
from env_construction.sandbox.tool_sandbox import SandboxFault, ToolSandbox


@pytest.mark.parametrize(("machine", "column"), [("X86_64", 0), ("AARCH64", 1)])
def test_system_call_numbers_agree_with_libseccomp(machine: str, column: int) -> None:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"libseccomp is not installed ({error})")
    for name, numbers in isolation.CALLS.items():
        known = pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, machine), name)
        assert numbers[column] == (known if known >= 0 else -1), name


@pytest.mark.parametrize("machine", list(isolation.ARCHITECTURES))
@pytest.mark.parametrize("build", [isolation.zygote_filter, isolation.runner_filter])
def test_filters_are_programs_that_the_kernel_accepts(machine: str, build: object) -> None:
    program = build(machine)  # type: ignore[operator]
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    assert len(program) % 8 == 0 and len(steps) < 4096
    for at, (code, yes, no, _) in enumerate(steps):
        if code in (isolation.JUMP_EQUAL, isolation.JUMP_BITS, isolation.JUMP_GREATER_EQUAL):
            assert at + 1 + max(yes, no) < len(steps)
    assert steps[-1][0] == isolation.RETURN


def test_active_layers_are_reported() -> None:
    with ToolSandbox() as sandbox:
        assert "resource limits" in sandbox.isolation
        if platform.system() == "Linux" and platform.machine() in isolation.ARCHITECTURES:
            assert "seccomp" in sandbox.isolation


def test_missing_layers_warn_once_or_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_sandbox, "_warned", False)
    real_start = sandbox_processes.Zygote.__init__

    def start(self: sandbox_processes.Zygote, settings: dict[str, object]) -> None:
        real_start(self, settings)
        self.hello["missing"] = ["landlock (function not implemented)"]

    monkeypatch.setattr(sandbox_processes.Zygote, "__init__", start)
    with pytest.warns(RuntimeWarning, match="runs without: landlock"):
        ToolSandbox().close()
    ToolSandbox().close()
    with pytest.raises(SandboxFault, match="required, but this system lacks: landlock"):
        ToolSandbox(require_isolation=True)
