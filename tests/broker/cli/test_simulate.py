"""`zablog simulate`: one flat object, a trace, and a failing seed with the command that shows it again."""

import json
import re
import shlex

import pytest

from broker.cli.main import run
from zablog.core.gate import Gate
