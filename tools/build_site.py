"""`python tools/build_site.py` makes the site in _site/: front page, journal, claims, library reference and guides,
as static files that need no network. Sphinx reads a copy of the pages, laid out as the repository is."""
import ast, json, posixpath, re, shutil, subprocess, sys
from functools import partial
from pathlib import Path
import nbformat
from gates import headline_pages, notebooks
from readme import LINK, directives
from reference import defined, label, module_page, uses
from textdiffusion.checkout import entries

ROOT = Path(__file__).resolve().parent.parent
DROPPED = {'hide', 'default_exp'}
ABOUT = re.compile(r'^-\s+([\w-]+):\s*(.+)\n?', re.M)       # the lines of a title cell, such as `- date: 2026-11-21`
GUIDES = ('running', 'training', 'sampling', 'text', 'installing', 'changing')      # first; other pages of docs/ follow

# --- pages ---

def relinked(text, here, pages):
    "A text whose links to entries lead to their pages; `here`: the file it stands in, `pages`: entry -> page"
    folder = posixpath.dirname(here)
    def move(m):
        path, _, anchor = m[2].partition('#')
        target = posixpath.normpath(posixpath.join(folder, path))
        there = pages.get(Path(target).stem) if re.fullmatch(r'nbs/\w+\.ipynb', target) else None
        return m[1] + posixpath.relpath(there, folder or '.') + '#'*bool(anchor) + anchor + m[3] if there else m[0]
    blocks = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
    return ''.join(b if b.startswith('```') else LINK.sub(move, b) for b in blocks)

def title_cell(source, title, links):
    "A title cell with its `- date:` lines in one line, and links to what belongs to the page"
    about = dict(ABOUT.findall(source))
    parts = [about.get('date'), about.get('categories', '').strip('[]'), about.get('source'), *links]
    text = re.sub(r'^# .*', lambda _: f'# {title}', ABOUT.sub('', source).rstrip(), count=1)
    return f'{text}\n\n{" · ".join(filter(None, parts))}\n'

def imports_only(code):
    "Whether code does nothing but import"
    try: return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(code).body)
    except SyntaxError: return False            # magics

def code_cell(cell, fold):
    "A code cell as the site shows it, None for one that is not; `fold`: imports and what is not exported need a click"
    words, code = directives(cell.source)
    if words & DROPPED and 'export' not in words or not code: return None
    behind = fold and ('export' not in words or imports_only(code))
    cell.source, cell.metadata = code, dict(tags=['hide-input']) if behind else {}
    return cell

def notebook_page(nb, here, title, links, pages, marks, fold):
    "A notebook as the site shows it; `marks`: id of a cell -> a label, to be linked to"
    cells, move = [], partial(relinked, here=here, pages=pages)
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = move(cell.source if cells else title_cell(cell.source, title, links))
        elif not (cell := code_cell(cell, fold)): continue
        for o in cell.get('outputs', []):
            if text := o.get('data', {}).get('text/markdown'): o.data['text/markdown'] = move(text)
        if cell.id in marks: cells.append(nbformat.v4.new_markdown_cell(f'({marks[cell.id]})='))
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=nb.metadata.kernelspec))

def toc(caption, names):
    "A part of the navigation"
    lines = ['```{toctree}', ':hidden:', *([f':caption: {caption}'] if caption else []), '', *names, '```']
    return '\n\n' + '\n'.join(lines) + '\n'

# --- the folder that Sphinx reads ---

class Source:
    "A copy of what the site shows"
    def __init__(self, root, folder):
        self.root, self.folder, self.entries = root, folder, entries(root)
        headlines = {e: p.relative_to(root).as_posix() for e, p in headline_pages(root).items()}
        self.pages = {e: headlines.get(e, f'nbs/{e}.ipynb') for e in self.entries}
        self.notebooks = {nb.path.stem: nb for nb in notebooks(root) if nb.number}

    def write(self, name, text):
        "Put a text into the folder"
        path = self.folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')

    def copy(self, name):
        "Put a file of the checkout into the folder"
        (self.folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root/name, self.folder/name)

    def markdown(self, name, to=None, more=''):
        "A page that is Markdown already"
        text = re.sub(r'^<!--.*?-->\s*', '', (self.root/name).read_text(encoding='utf-8'), flags=re.S)
        self.write(to or name, relinked(text, name, self.pages) + more)

    def notebook(self, name, of, title, links, fold):
        "A page that is a notebook; `of`: the source, whose exports can be linked to from the reference"
        named = name in (self.pages.get(of.path.stem), of.name)
        marks = {of.cells[i].id: label(of, i) for i in defined(of).values()} if named else {}
        made = notebook_page(nbformat.read(self.root/name, 4), name, title, links, self.pages, marks, fold)
        self.write(name, nbformat.writes(made))

    def entry(self, name, page, slot=''):
        "A page of an entry, and the record that it was made from"
        entry, record = self.entries[name], str(Path(page).with_suffix('.json'))
        up, links = posixpath.relpath('.', posixpath.dirname(page)), []
        if (self.root/record).is_file():
            self.copy(record)
            links.append(f'[record]({Path(record).name})')
        links.append(f'[functions]({up}/reference/{entry.subject}.md)')
        title = f'{entry.number} · {entry.title}' + (f', {slot}' if slot else '')
        self.notebook(page, self.notebooks[name], title, links, fold=True)

    def journal(self):
        "The pages of the entries, log and claims"
        pins, others = json.loads((self.root/'journal/pinned.json').read_text(encoding='utf-8')), []
        for name, page in self.pages.items():
            self.entry(name, page)
            mine = pins.get(name, dict(headline='', pins={}))
            for slot, stem in mine['pins'].items():
                if slot == mine['headline']: continue
                others.append(f'/journal/{stem}')
                self.entry(name, f'journal/{stem}.ipynb', slot)
        self.markdown('journal/README.md', more=toc('', others))
        self.write('journal/CLAIMS.md', self.linked_claims())

    def linked_claims(self):
        "The claims, with their entries as links"
        def link(m): return f'| [{m[2]}](../nbs/{m[1]}.ipynb) |' if m[1] in self.pages else m[0]
        text = re.sub(r'\| ((\d+[a-z]?)_\w+) \|', link, (self.root/'journal/CLAIMS.md').read_text(encoding='utf-8'))
        return relinked(text, 'journal/CLAIMS.md', self.pages)

    def costs(self):
        "The page of `make bench` with its records, and its name for the navigation; nothing where nothing was timed"
        if not (self.root/'journal/bench/README.md').is_file(): return []
        for path in (self.root/'journal/bench').glob('*.json'): self.copy(f'journal/bench/{path.name}')
        self.markdown('journal/bench/README.md')
        return ['journal/bench/README']

    def library(self):
        "A page of reference for each module, and for a module of the library the notebook that teaches it"
        used, rows = uses(self.notebooks.values()), {True: [], False: []}
        for nb in self.notebooks.values():
            title, _, about = ''.join(nb.cells[0].source).partition('\n')
            if nb.in_lib:
                links = [f'[functions](../../reference/{nb.module}.md)']
                self.notebook(nb.name, nb, title.removeprefix('# '), links, fold=False)
            page = nb.name if nb.in_lib else self.pages[nb.path.stem]
            self.write(f'reference/{nb.module}.md', module_page(nb, page, used, self.pages))
            question = next(iter(re.findall(r'^> (.*)', about, re.M)), '')
            taught = f'[notebook](../{page})' if nb.in_lib else f'[entry {nb.number}](../{page})'
            rows[nb.in_lib].append(f'- [{nb.module}]({nb.module}.md), {taught}: {question}')
        return rows

    def reference(self):
        "The list of the modules"
        rows = self.library()
        text = ['# Library', 'What every notebook of `nbs/lib/` exports, lower layers first.', '\n'.join(rows[True]),
                '## What entries export', '\n'.join(rows[False])]
        lib = [nb for nb in self.notebooks.values() if nb.in_lib]
        self.write('reference/index.md', '\n\n'.join(text) + toc('', [nb.module for nb in self.notebooks.values()])
                   + toc('Notebooks of the library', [f'/{nb.name.removesuffix(".ipynb")}' for nb in lib]))

    def front(self):
        "The front page, which holds the navigation; guides and the files that it shows"
        found = sorted(p.stem for p in (self.root/'docs').glob('*.md'))
        docs = [d for d in GUIDES if d in found] + [d for d in found if d not in GUIDES]
        for name in docs: self.markdown(f'docs/{name}.md')
        for path in (self.root/'docs').glob('*.gif'): self.copy(f'docs/{path.name}')
        if (self.root/'LICENSE').is_file(): self.copy('LICENSE')
        pages = [f'{self.entries[e].number} · {self.entries[e].title} <{p.removesuffix(".ipynb")}>'
                 for e, p in self.pages.items()]
        more = toc('Journal', pages) + toc('What came out', ['journal/README', 'journal/CLAIMS', *self.costs()])
        self.markdown('README.md', 'index.md', more + toc('Library', ['reference/index'])
                      + toc('Guides', [f'docs/{d}' for d in docs]))

def sphinx(source, work):
    "Let Sphinx make work/html; its exit status, which is not 0 where a link leads nowhere"
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-c', ROOT/'tools/site', '-d', work/'trees',
               '-b', 'html', source, work/'html']
    return subprocess.run(command).returncode

def build(root=ROOT, out=ROOT/'_site', work=ROOT/'_build/site'):
    "Make the site of a checkout in `out`, which is replaced if all went well; the exit status of Sphinx"
    shutil.rmtree(work, ignore_errors=True)
    source = Source(root, work/'source')
    for part in (source.journal, source.reference, source.front): part()
    if status := sphinx(source.folder, work): return status
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(work/'html', out)
    return 0

if __name__ == '__main__': sys.exit(build())
