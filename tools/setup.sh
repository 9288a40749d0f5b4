#!/bin/sh
# Build .venv from requirements.lock; a few milliseconds when nothing has changed.
#   sh tools/setup.sh            any Python from settings.ini's min_python on
#   sh tools/setup.sh python3.12 that one, if it is new enough
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
env=$root/.venv
stamp=$env/.stamp
wanted=${1:-}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

min=$(sed -n 's/^min_python *= *//p' settings.ini)

# Prints major.minor of an interpreter that is new enough and has the venv module, else nothing.
version_of() {
    "$1" -c "
import sys, venv
if sys.version_info[:2] >= tuple(map(int, '$min'.split('.'))):
    print('%d.%d' % sys.version_info[:2])" 2>/dev/null || true
}

# The environment is right for one folder (its scripts hold the path), one lock file and one Python.
fingerprint() {
    { cat requirements.lock settings.ini setup.py tools/setup.sh; echo "$root $1"; } | cksum
}

have=
if [ -x "$env/bin/python" ]; then have=$(version_of "$env/bin/python"); fi
if [ -n "$wanted" ]; then want=$(version_of "$wanted"); else want=$have; fi
if [ -n "$have" ] && [ "${want:-none}" = "$have" ] && [ -f "$stamp" ] &&
    [ "$(cat "$stamp")" = "$(fingerprint "$have")" ]; then
    exit 0
fi

python=
for name in ${wanted:-python3} python3 python python3.13 python3.12 python3.11 python3.14; do
    if [ -n "$(version_of "$name")" ]; then python=$name; break; fi
done
[ -n "$python" ] || fail "no Python >= $min found (tried ${wanted:-python3}, python3, python, python3.11 to python3.14); install one, or name it: make setup PYTHON=/path/to/python3"
[ -z "$wanted" ] || [ "$python" = "$wanted" ] || say "$wanted is not a Python >= $min; using $python"
version=$(version_of "$python")

say "Python $version ($python) -> .venv"
rm -f "$stamp"
# Scripts hold the path of their environment: one that was copied or moved here is made anew.
if [ "$have" != "$version" ] || ! grep -qsF "$env/bin" "$env/bin/nbdev_test"; then rm -rf "$env"; fi
# Without pip inside: this needs neither ensurepip nor a writable system Python.
"$python" -m venv --without-pip "$env"
pip() { "$python" -m pip --python "$env/bin/python" --disable-pip-version-check "$@"; }
"$python" -m pip --version >/dev/null 2>&1 || {
    "$python" -m venv "$env" || fail "$python has neither pip nor ensurepip; install pip (Debian: python3-pip)"
    pip() { "$env/bin/python" -m pip --disable-pip-version-check "$@"; }
}

# compat: a plain path entry, which type checkers and editors follow too
editable="--config-settings editable_mode=compat -e ."
if pip install -q uv && "$env/bin/uv" pip install -q --python "$env/bin/python" -r requirements.lock &&
    "$env/bin/uv" pip install -q --python "$env/bin/python" --no-deps $editable; then
    :
else
    say "uv could not install the lock file (it does not read pip.conf); trying pip"
    pip install -q -r requirements.lock
    pip install -q --no-deps $editable
fi

reason=$("$env/bin/python" -c 'import lightgbm' 2>&1) || {
    printf '%s\n' "$reason" >&2
    fail "LightGBM needs libgomp1 (Debian, Ubuntu: apt-get install libgomp1; Fedora: dnf install libgomp; macOS: brew install libomp)"
}

# Notebooks are cleaned when JupyterLab saves them: the hook lives in this environment, not in the user's home.
mkdir -p "$env/etc/jupyter"
cat >"$env/etc/jupyter/jupyter_server_config.py" <<'HOOK'
def nbdev_clean_jupyter(**kwargs):
    try:
        from nbdev.clean import clean_jupyter
    except ModuleNotFoundError:
        return
    clean_jupyter(**kwargs)


c.ContentsManager.pre_save_hook = nbdev_clean_jupyter
HOOK

# git merges notebooks cell by cell (.gitattributes names the driver); nothing in the work tree changes.
if [ "${CI:-}" != true ] && [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$root" ]; then
    git config --local merge.nbdev-merge.name "resolve notebook conflicts with nbdev_fix" || true
    git config --local merge.nbdev-merge.driver "'$env/bin/nbdev_merge' %O %A %B %P" || true
fi

fingerprint "$version" >"$stamp"
say "done"
