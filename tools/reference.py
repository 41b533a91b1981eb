"""The library reference of the site: a page of Markdown for every module, from its docstrings and docments,
with links to the notebook that teaches a function and to the entries that use it."""
import ast, importlib, inspect, re
from collections import defaultdict
from fastcore.docments import docments
from gates import PACKAGE, definitions

LITERAL = re.compile(r'(`[^`]*`)')
SPECIAL = re.compile(r'([\\*_\[\]<>$|~^{}#@])')

def escaped(text):
    "Text in which Markdown sees nothing special but `code`; on one line"
    parts = LITERAL.split(' '.join((text or '').split()))
    return ''.join(p.replace('|', '\\|') if p.startswith('`') else SPECIAL.sub(r'\\\1', p) for p in parts)

def code(text):
    "Inline code, fit for a cell of a table"
    return f'`{text}`'.replace('|', '\\|') if text else ''

def named(value):
    "A type or a default as a reader writes it"
    if value is inspect.Parameter.empty: return ''
    if hasattr(value, '__name__') and not hasattr(value, '__args__'): return value.__name__
    said = re.sub(r'\b(?:[a-z_]\w*\.)+(?=[A-Za-z_]\w*)', '', str(value) if not isinstance(value, str) else repr(value))
    said = re.sub(r'<function (\w+)[^>]*>', r'\1', said)
    return said if len(said) <= 40 and '<' not in said else '...'

def arguments(obj):
    "What a function or a class takes, name -> type, default and meaning; and what it returns"
    rows = {k: v for k, v in docments(obj, full=True, returns=True).items() if k not in ('self', 'cls')}
    back = rows.pop('return', None)
    return rows, None if inspect.isclass(obj) else back

def table(obj):
    "The arguments of a function or a class, and what it returns, as a table"
    rows, back = arguments(obj)
    lines = [(code(k), code(named(v['anno'])), escaped(v['docment'])) for k, v in rows.items()]
    if back and (back['docment'] or back['anno'] not in (None, inspect.Parameter.empty)):
        lines.append(('*returns*', code(named(back['anno'])), escaped(back['docment'])))
    head = [('argument', 'type', 'meaning'), ('---',)*3]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in head + lines) if lines else ''

def signature(obj):
    "Names and defaults, without types: those are in the table"
    try: known = inspect.signature(obj).parameters.values()
    except ValueError: return ''                            # a class of Python's own below it, such as dict
    parts, stars = [], False
    for p in known:
        if p.name == 'self': continue
        if p.kind is p.KEYWORD_ONLY and not stars: parts.append('*'); stars = True
        if p.kind is p.VAR_POSITIONAL: stars = True
        start = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        parts.append(start + p.name + (f'={named(p.default)}' if p.default is not p.empty else ''))
    return ', '.join(parts)

def methods(cls):
    "The public functions of a class, with those that were put on it later: name, object"
    for name, value in vars(cls).items():
        value = getattr(value, 'fget', None) or getattr(value, '__func__', value)
        if name[0] != '_' and inspect.isfunction(value) and value.__doc__: yield name, value

def block(kind, head, body, ticks=6):
    "A directive of Sphinx's domain for Python"
    fence = '`'*ticks
    return f'{fence}{{py:{kind}}} {head}\n\n{body}\n{fence}\n'

def described(name, obj, foot):
    "A function or a class of a module"
    body = [escaped(obj.__doc__), table(obj), foot]
    if inspect.isclass(obj):
        body += [block('method', f'{n}({signature(m)})', f'{escaped(m.__doc__)}\n\n{table(m)}', 4)
                 for n, m in methods(obj)]
    kind = 'class' if inspect.isclass(obj) else 'function'
    return block(kind, f'{name}({signature(obj)})', '\n\n'.join(filter(None, body)))

def uses(notebooks):
    "(module, name) -> the entries whose code imports it"
    found = defaultdict(list)
    for nb in notebooks:
        if nb.in_lib or not nb.number: continue
        for node in (n for c in nb.code for n in ast.walk(c.tree) if isinstance(n, ast.ImportFrom)):
            if not (node.module or '').startswith(f'{PACKAGE}.'): continue
            for alias in node.names:
                key = node.module.split('.')[1], alias.name
                if nb.path.stem not in found[key]: found[key].append(nb.path.stem)
    return found

def attached(module):
    "Names of the functions that are methods of a class of the module"
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    return {f.__name__ for c in classes for _, f in methods(c) if '.' not in f.__qualname__}

def defined(nb):
    "name -> position of the code cell of a notebook that exports it"
    return {name: i for i, c in enumerate(nb.cells) if c.kind == 'code' and c.exported for name in definitions(c.tree)}

def label(nb, i):
    "What the i-th cell of a notebook is called where it is linked to"
    return f'{nb.module}-{nb.cells[i].id}'.lower()

def module_page(nb, teaches, used, pages):
    "The reference page of a notebook's module; `teaches`: its page on the site, `pages`: entry -> its page"
    module = importlib.import_module(f'{PACKAGE}.{nb.module}')
    said = f'{PACKAGE}.{nb.module}'
    where = 'the notebook that teaches it' if nb.in_lib else 'the entry that explains it'
    lines = [f'# {nb.module}', escaped(module.__doc__), f'`{said}`, from [{where}](../{teaches}).',
             f'```{{py:module}} {said}\n```']
    places, inside = defined(nb), attached(module)
    for name in sorted((n for n in module.__all__ if n in places), key=places.get):
        if name in inside: continue
        obj, links = getattr(module, name), [f'[code](#{label(nb, places[name])})']
        known = [e for e in used[nb.module, name] if e in pages and e != nb.path.stem]
        if known: links.append('used in ' + ', '.join(f'[{e.split("_")[0]}](../{pages[e]})' for e in known))
        foot = ' · '.join(links)
        if inspect.isfunction(obj) or inspect.isclass(obj): lines.append(described(name, obj, foot))
        else: lines.append(block('data', name, foot))
    return '\n\n'.join(lines) + '\n'
