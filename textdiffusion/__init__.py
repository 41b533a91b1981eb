__version__ = "0.0.1"

import importlib.util
import sys
import warnings

warnings.filterwarnings('ignore', 'IProgress not found') # tqdm, in a notebook without ipywidgets: we draw bars of our own


class _Registration:
    "Registers the models with transformers' Auto classes when those are loaded, so that importing this stays fast"
    auto = ('transformers.models.auto.configuration_auto', 'transformers.models.auto.modeling_auto')
    specs = {}

    def find_spec(self, name, path=None, target=None):
        if name not in self.auto or name in self.specs: return None
        self.specs[name] = None                    # the next line asks here again
        self.specs[name] = spec = importlib.util.find_spec(name)
        return spec and importlib.util.spec_from_file_location(name, spec.origin, loader=self)

    def create_module(self, spec): return None

    def exec_module(self, module):
        self.specs[module.__name__].loader.exec_module(module)
        register(module.__name__)


def register(loaded:str):
    "Import the models, which register themselves, unless an import that is under way will do it"
    under_way = [name for name in _Registration.auto if name in sys.modules and name != loaded]
    if loaded == _Registration.auto[0] and under_way or 'textdiffusion.models' in sys.modules: return
    importlib.import_module('textdiffusion.models')


if any(name in sys.modules for name in _Registration.auto): importlib.import_module('textdiffusion.models')
else: sys.meta_path.insert(0, _Registration())
