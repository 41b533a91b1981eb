"""`python tools/notebooks.py` runs every cell of every notebook at smoke size, as `nbdev_test` does, and counts:
'notebooks: N passed, M failed'."""
import subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def count_failed(stderr):
    "How many notebooks the report at the end of nbdev_test's standard error lists"
    return sum(line.startswith('\t') and line.endswith('.ipynb')
               for line in stderr.rpartition('nbdev Tests Failed On')[2].splitlines())

def main():
    "Run them in two processes, show what nbdev_test says as it comes, return its exit status"
    total = sum(not any(part[0] in '_.' for part in p.relative_to(ROOT).parts) for p in (ROOT/'nbs').rglob('*.ipynb'))
    command = [Path(sys.executable).parent/'nbdev_test', '--n_workers', '2', '--timing']
    said = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            said.append(line); sys.stderr.write(line); sys.stderr.flush()
    failed = (count_failed(''.join(said)) or total) if run.returncode else 0
    print(f'notebooks: {total - failed} passed, {failed} failed', flush=True)
    return run.returncode

if __name__ == '__main__': sys.exit(main())
