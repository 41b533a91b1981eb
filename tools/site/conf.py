"""How Sphinx makes the site: no network, no scripts from elsewhere, formulas as MathML."""
import html
from math_core import LatexError, LatexToMathML

project, author, copyright = 'textdiffusion', 'The project', '2026 onwards, the project'
extensions = ['myst_nb', 'sphinx_copybutton']
html_theme, html_title = 'furo', 'textdiffusion'
html_static_path, html_css_files = ['_static'], ['site.css']
html_show_sphinx = html_copy_source = html_show_sourcelink = False
html_show_search_summary = False                        # it fetches pages, which a browser refuses for local files
html_math_renderer = 'mathml'
pygments_style, pygments_dark_style = 'friendly', 'github-dark'
python_maximum_signature_line_length = 88
add_module_names = False
myst_enable_extensions = ['dollarmath', 'deflist']
myst_disable_syntax = ['html_block', 'html_inline']     # tags in a text are shown, never obeyed
myst_heading_anchors = 3
nb_execution_mode = 'off'                               # outputs come from the journal
nb_render_markdown_format = 'myst'
nb_code_prompt_show, nb_code_prompt_hide = 'Code', 'Code'
nb_merge_streams = True
nb_output_stderr = 'remove'
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']

MATHML = LatexToMathML()

def formula(tex, block):
    "A formula as MathML; one that cannot be read, as its LaTeX"
    try: return MATHML.convert_with_local_state(tex, displaystyle=block)
    except LatexError: return f'<code>{html.escape(tex)}</code>'

def inline(self, node):
    "Write a formula within a line"
    from docutils.nodes import SkipNode
    self.body.append(formula(node.astext(), False))
    raise SkipNode

def display(self, node):
    "Write a formula on a line of its own"
    from docutils.nodes import SkipNode
    self.body.append(f'<div class="formula">{formula(node.astext(), True)}</div>')
    raise SkipNode

def setup(app):
    "Tell Sphinx who writes formulas"
    app.add_html_math_renderer('mathml', inline_renderers=(inline, None), block_renderers=(display, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
