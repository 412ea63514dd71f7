# What `mlaas doctor` must know of a machine: lines of a key, a tab and a value. It changes nothing, and needs no more than a POSIX shell.
# Before it stand: FOLDERS and PORTS (space lists), TARGETS (lines of name, tab, address), TIMEOUT (s).
# shellcheck shell=sh disable=SC2154,SC1091
{ # read to its end before anything runs: it comes by standard input
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

say() { printf '%s\t%s\n' "$1" "$2"; }
has() { command -v "$1" >/dev/null 2>&1; }
first() { head -n 1 2>/dev/null || :; }

say time "$(date +%s)"
if [ -r /etc/os-release ]; then
    say os "$(. /etc/os-release && printf '%s' "$ID")"
    say os_like "$(. /etc/os-release && printf '%s' "${ID_LIKE-}")"
    say os_version "$(. /etc/os-release && printf '%s' "${VERSION_ID-}")"
    say os_name "$(. /etc/os-release && printf '%s' "${PRETTY_NAME-$ID}")"
fi
say architecture "$(uname -m)"
say kernel "$(uname -r)"
say cpus "$(grep -c '^processor' /proc/cpuinfo)"
say memory "$(awk '/^MemTotal:/ {printf "%.0f", $2 * 1024}' /proc/meminfo)"
say user "$(id -un 2>/dev/null || id -u)"
say uid "$(id -u)"

for folder in $FOLDERS; do
    found=$folder
    while [ ! -d "$found" ] && [ "$found" != / ]; do found=$(dirname "$found"); done
    say disk "$folder $(df -Pk "$found" 2>/dev/null | awk 'NR == 2 {printf "%.0f %.0f", $4 * 1024, $2 * 1024}')"
done

# listening sockets, IPv4 and IPv6: state 0A, the port in hexadecimal digits
listening=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" {n = split($2, part, ":"); print part[n]}')
for port in $PORTS; do
    case "
$listening
" in *"
$(printf '%04X' "$port")
"*)
        say taken "$port"
        if has ss; then say holder "$port $(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)".*/\1/p' | first)"; fi
        ;;
    esac
done

if [ "$(id -u)" = 0 ]; then say sudo root; elif ! has sudo; then say sudo missing; elif sudo -n true 2>/dev/null; then say sudo free; else say sudo password; fi
as_root() { if [ "$(id -u)" != 0 ] && has sudo && sudo -n true 2>/dev/null; then sudo -n "$@"; else "$@"; fi; }

if has docker; then
    say docker_client "$(docker --version 2>/dev/null | first)"
    say docker "$(as_root docker version --format '{{.Server.Version}}' 2>/dev/null | first)"
    say docker_root "$(as_root docker info --format '{{.DockerRootDir}}' 2>/dev/null | first)"
    say docker_driver "$(as_root docker info --format '{{.Driver}}' 2>/dev/null | first)"
    say compose "$(docker compose version --short 2>/dev/null | first)"
    as_root docker ps --filter label=com.docker.compose.project=mlaas --format '{{.Ports}}' 2>/dev/null |
        grep -o ':[0-9]*->' | tr -d ':>-' | sort -u | while read -r port; do say ours "$port"; done
fi
if has podman && ! has dockerd; then say podman "$(podman --version 2>/dev/null)"; fi

say cgroup "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)"
say seccomp "$(awk '/^Seccomp:/ {print $2}' /proc/self/status)"
[ -r /sys/kernel/security/lsm ] && say lsm "$(cat /sys/kernel/security/lsm)"
has getenforce && say selinux "$(getenforce 2>/dev/null)"
say systemd "$(if [ -d /run/systemd/system ]; then echo yes; else echo no; fi)"
has timedatectl && say synchronised "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)"

# where packages come from: the first address of each kind of list
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -v '^[[:space:]]*#' | grep -o 'https\{0,1\}://[^] ]*' | first)
[ -n "$mirror" ] || mirror=$(cat /etc/yum.repos.d/*.repo 2>/dev/null | grep -E '^(baseurl|metalink|mirrorlist)=' | grep -o 'https\{0,1\}://[^ ]*' |
    grep -v '\$' | first)
[ -n "$mirror" ] && TARGETS="$TARGETS
packages	$mirror"

python=
for name in python3 /usr/libexec/platform-python; do has "$name" && python=$name && break; done
[ -n "$python" ] || exit 0
say python "$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)"
say landlock "$("$python" -c 'import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))' 2>/dev/null)"
TARGETS=$TARGETS TIMEOUT=$TIMEOUT "$python" - <<'PYTHON'
import json, os, socket, ssl, threading
try:
    from urllib.request import Request, urlopen
    from urllib.error import HTTPError, URLError
except ImportError:
    raise SystemExit(0)
TIMEOUT = float(os.environ["TIMEOUT"])
LOCK = threading.Lock()


def reach(name, address):
    try:
        if address.startswith(("http://", "https://")):
            try:
                answer = urlopen(Request(address, headers={"User-Agent": "mlaas-doctor"}), timeout=TIMEOUT)
                said = "good %d" % answer.getcode()
                if name == "issuer":
                    named = json.loads(answer.read(1000000).decode()).get("issuer", "")
                    said = "good %s" % named
            except HTTPError as error:
                said = "good %d" % error.code if error.code < 500 and name != "issuer" else "status %d" % error.code
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT).close()
            said = "good"
    except URLError as error:
        said = "untrusted" if isinstance(error.reason, ssl.SSLError) and "CERTIFICATE" in str(error.reason).upper() else "no %s" % error.reason
    except socket.timeout:
        said = "no timed out"
    except Exception as error:
        said = "no %s" % error
    with LOCK:  # two lines at once would become one
        print("reach\t%s %s" % (name, " ".join(said.split())), flush=True)


threads = [threading.Thread(target=reach, args=line.split("\t"), daemon=True) for line in os.environ["TARGETS"].splitlines() if "\t" in line]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(2 * TIMEOUT)
PYTHON
} </dev/null
