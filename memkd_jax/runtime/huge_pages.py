"""Huge memory pages for what XLA allocates on the CPU.

Each step's buffers, hundreds of megabytes, come fresh from the system, which hands them out
in pages of 4 KB: of a training step a tenth went by in the kernel. With pages of 2 MB that is
gone. The C library reads this setting at the start of a process only, so the process has to
start again with it.
"""

import os
import sys
from collections.abc import Mapping

_VARIABLE = 'GLIBC_TUNABLES'
_SETTING = 'glibc.malloc.hugetlb=1'


def environment_with_huge_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
  """The environment with the setting, None where it has one already, or is not Linux's."""
  if not sys.platform.startswith('linux') or _VARIABLE in environment:
    return None
  return {**environment, _VARIABLE: _SETTING}


def restart_with_huge_pages() -> None:
  """Replaces this process by the same command with the setting; call it before all work.

  Does nothing where GLIBC_TUNABLES is set already, whatever to. The process keeps its
  number, so who started it notices nothing.
  """
  environment = environment_with_huge_pages(os.environ)
  if environment is not None:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
