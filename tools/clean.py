"""`python tools/clean.py` cleans the notebooks: nbdev_clean, then the metadata that JupyterLab would write,
so that opening one changes nothing."""
import json, platform, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL = dict(display_name='Python 3 (ipykernel)', language='python', name='python3')
LANGUAGE = dict(codemirror_mode=dict(name='ipython', version=3), file_extension='.py', mimetype='text/x-python',
                name='python',
                nbconvert_exporter='python', pygments_lexer='ipython3')

def as_lab_writes(notebook, version):
    "A notebook as JSON text with the metadata of a JupyterLab whose Python has this version"
    whole = notebook | dict(metadata=dict(kernelspec=KERNEL, language_info=dict(LANGUAGE, version=version)))
    return json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False) + '\n'

def main():
    "Clean every notebook of nbs/; the Python version of one that has it stays"
    paths = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb'))
             if not any(s[0] in '_.' for s in p.relative_to(ROOT).parts)]
    known = {p: json.loads(p.read_text(encoding='utf-8'))['metadata'].get('language_info', {}).get('version')
             for p in paths}
    subprocess.run([Path(sys.executable).parent/'nbdev_clean'], cwd=ROOT, check=True)
    for p in paths:
        text = as_lab_writes(json.loads(p.read_text(encoding='utf-8')), known[p] or platform.python_version())
        if p.read_text(encoding='utf-8') != text: p.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
