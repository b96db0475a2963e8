"""A library that, loaded before all others, lets calls fail that some machines and file systems do not have.

$ODD_CALLS names them: "flock=37,fsync=22" lets these two fail with those errors. $ODD_CLOCK is "FILE:SECONDS": once
the file is there the wall clock is that much later, or earlier. $ODD_CLOCKS is a number of seconds by which the wall
clocks of two processes differ, by their process ids.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

_CALLS = (
    ("int", "flock", "int fd, int how", "fd, how"),
    ("int", "fsync", "int fd", "fd"),
    ("int", "link", "const char *from, const char *to", "from, to"),
    ("int", "linkat", "int a, const char *from, int b, const char *to, int how", "a, from, b, to, how"),
    ("int", "symlink", "const char *from, const char *to", "from, to"),
    ("int", "chmod", "const char *path, mode_t mode", "path, mode"),
    ("int", "fchmod", "int fd, mode_t mode", "fd, mode"),
    ("int", "memfd_create", "const char *name, unsigned how", "name, how"),
)
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int fails(const char *name) {
  const size_t length = strlen(name);
  for (const char *at = getenv("ODD_CALLS"); at != NULL && *at; at = strchr(at, ',')) {
    at += *at == ',';
    if (!strncmp(at, name, length) && at[length] == '=') {
      errno = atoi(at + length + 1);
      return 1;
    }
  }
  return 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
  if (address->sa_family == AF_UNIX && fails("bind")) return -1;
  return syscall(SYS_bind, fd, address, size);
}

int clock_gettime(clockid_t which, struct timespec *out) {
  const int result = syscall(SYS_clock_gettime, which, out);
  const char *odd = getenv("ODD_CLOCK"), *apart = getenv("ODD_CLOCKS");
  if (result || which != CLOCK_REALTIME) return result;
  if (odd != NULL) {
    const char *colon = strrchr(odd, ':');
    char file[4096];
    if (colon != NULL && colon - odd < (long)sizeof file) {
      memcpy(file, odd, colon - odd);
      file[colon - odd] = 0;
      const int before = errno;
      if (!syscall(SYS_access, file, 0)) out->tv_sec += atol(colon + 1);
      errno = before;
    }
  }
  if (apart != NULL) out->tv_sec += (getpid() % 7 - 3) * atol(apart);
  return result;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != NULL) *out = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""
_CALL = """
{kind} {name}({takes}) {{
  {kind} (*real)({takes}) = dlsym(RTLD_NEXT, "{name}");
  return fails("{name}") ? -1 : real({gives});
}}
"""


@functools.cache
def odd_calls() -> tuple[str, str]:
    """The path of the library, and why there is none; one of the two is ""."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "", "there is no C compiler"
    folder = Path(tempfile.mkdtemp(prefix="gossip-caffe-odd-calls-"))
    source, library = folder / "odd.c", folder / "odd.so"
    calls = (
        _CALL.format(kind=kind, name=name, takes=takes, gives=gives) for kind, name, takes, gives in _CALLS
    )
    source.write_text(_SOURCE + "".join(calls))
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (str(library), "") if done.returncode == 0 else ("", done.stderr.strip())
