"""`python tools/readme.py` runs nbs/index.ipynb and writes README.md from it: prose, shown code, outputs;
links made relative to the root."""
import posixpath, re
from pathlib import Path
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
HEADER = '<!-- made from nbs/index.ipynb by tools/readme.py: edit that, then `make readme` -->\n\n'
LINK = re.compile(r'(\]\()(?![a-z]+:|#|/)([^)\s]+)(\))')      # a relative link or picture

def directives(source):
    "The words of a cell's leading `#|` lines, such as {'hide'} or {'echo:', 'false'}, and the code below them"
    lines, words = source.splitlines(), set()
    while lines and lines[0].startswith('#|'): words |= set(lines.pop(0)[2:].split())
    return words, '\n'.join(lines).strip('\n')

def fence(text, language=''):
    "A fenced block"
    return f'```{language}\n{text.rstrip()}\n```'

def shown(output):
    "Markdown of one output of a cell; what goes to standard error is not shown"
    if output.output_type == 'stream': return fence(output.text) if output.name == 'stdout' else ''
    return output.data.get('text/markdown') or fence(output.data['text/plain'])

def cell_markdown(cell):
    "Markdown of one cell: nothing for `#| hide`, no code for `#| echo: false`"
    if cell.cell_type == 'markdown': return cell.source.strip()
    words, code = directives(cell.source)
    if 'hide' in words or not code: return ''
    parts = [] if 'echo:' in words else [fence(code, 'python')]
    return '\n\n'.join(parts + [s for o in cell.outputs if (s := shown(o))])

def from_root(markdown, folder='nbs'):
    "The links of a page in `folder` as a page in the root has to write them; code blocks stay"
    blocks = re.split(r'(^```.*?^```)', markdown, flags=re.M | re.S)
    move = lambda m: m[1] + posixpath.normpath(posixpath.join(folder, m[2])) + m[3]
    return ''.join(b if b.startswith('```') else LINK.sub(move, b) for b in blocks)

def readme(root=ROOT):
    "The text of README.md, from a fresh run of nbs/index.ipynb"
    nb = nbformat.read(root/'nbs/index.ipynb', 4)
    NotebookClient(nb, timeout=120, kernel_name='python3', coalesce_streams=True,
                   extra_arguments=['--log-level=ERROR'], resources=dict(metadata=dict(path=str(root/'nbs')))).execute()
    return HEADER + from_root('\n\n'.join(s for c in nb.cells if (s := cell_markdown(c)))) + '\n'

if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
