"""The recipes of docs/tpu.md: shell is linted, the rest is parsed."""

import os
import re
import shlex
import subprocess
import tarfile
from configparser import RawConfigParser

import pytest
import yaml
from documented import ROOT, check_ours
from recipes import (
  CLUSTER,
  MANIFESTS,
  PAGE,
  SERVICE_FLAGS,
  containers,
  lint,
  scripts,
  tool,
  trainings,
)

from memkd_jax.runtime import interrupt

SCRIPTS = scripts()
TRAININGS = list(trainings())
KUBERNETES = [(name, document) for name, document in MANIFESTS if 'apiVersion' in document]

# Those of the fields of Kubernetes that the manifests use; a misspelt one is none of them.
NAMED = {'name': str}
CONTAINER = {
  'name': str,
  'image': str,
  'command': [str],
  'args': [str],
  'securityContext': {'runAsUser': int, 'allowPrivilegeEscalation': bool},
  'resources': {'requests': dict, 'limits': dict},
  'volumeMounts': [{'name': str, 'mountPath': str, 'subPath': str, 'readOnly': bool}],
}
POD = {
  'restartPolicy': str,
  'serviceAccountName': str,
  'terminationGracePeriodSeconds': int,
  'nodeSelector': dict,
  'securityContext': {
    'runAsNonRoot': bool,
    'runAsUser': int,
    'runAsGroup': int,
    'fsGroup': int,
  },
  'containers': [CONTAINER],
  'volumes': [
    {
      'name': str,
      'persistentVolumeClaim': {'claimName': str},
      'csi': {'driver': str, 'readOnly': bool, 'volumeAttributes': dict},
    }
  ],
}
RULE = {
  'action': str,
  'onPodConditions': [{'type': str, 'status': str}],
  'onExitCodes': {'containerName': str, 'operator': str, 'values': [int]},
}
HEAD = {'apiVersion': str, 'kind': str, 'metadata': NAMED}
KINDS = {
  'Job': HEAD
  | {
    'spec': {
      'backoffLimit': int,
      'podFailurePolicy': {'rules': [RULE]},
      'template': {'metadata': {'annotations': dict}, 'spec': POD},
    }
  },
  'Pod': HEAD | {'spec': POD},
  'PersistentVolumeClaim': HEAD
  | {'spec': {'accessModes': [str], 'resources': {'requests': dict}}},
}
SKYPILOT = {
  'name': str,
  'workdir': str,
  'resources': {
    'infra': str,
    'accelerators': str,
    'accelerator_args': {'runtime_version': str},
    'use_spot': bool,
    'job_recovery': {'recover_on_exit_codes': [int]},
  },
  'envs': dict,
  'file_mounts': dict,
  'setup': str,
  'run': str,
}


def check_fields(value, schema, place):
  """Each field is one of the schema's and of its type."""
  if isinstance(schema, list):
    assert isinstance(value, list) and value, place
    for i, item in enumerate(value):
      check_fields(item, schema[0], f'{place}[{i}]')
  elif isinstance(schema, dict):
    assert isinstance(value, dict) and value, place
    for name, item in value.items():
      assert name in schema, f'{place}.{name}'
      check_fields(item, schema[name], f'{place}.{name}')
  else:
    assert type(value) is schema, place


def check_manifest(document):
  """What Kubernetes would refuse, or would never start."""
  check_fields(document, KINDS[document['kind']], document['kind'])
  assert {'apiVersion', 'kind', 'metadata', 'spec'} <= set(document)
  spec = document['spec']
  pod = spec.get('template', {}).get('spec', spec)
  names = [container['name'] for container in containers(document)]
  if document['kind'] == 'Job':
    assert document['apiVersion'] == 'batch/v1'
    assert pod['restartPolicy'] == 'Never'  # podFailurePolicy takes no other
    for rule in spec['podFailurePolicy']['rules']:
      assert rule['action'] in ('Ignore', 'FailJob', 'Count')
      assert rule.get('onExitCodes', {'containerName': names[0]})['containerName'] in names
  volumes = {volume['name'] for volume in pod.get('volumes', [])}
  for container in containers(document):
    assert container['image']
    assert {mount['name'] for mount in container.get('volumeMounts', [])} == volumes
    resources = container.get('resources', {})
    assert resources.get('requests', resources.get('limits')) == resources.get('limits')


@pytest.mark.parametrize('place', SCRIPTS)
def test_shell_is_shell(place):
  assert lint(['bash', '-n'], SCRIPTS[place]) == ''


@pytest.mark.parametrize('place', SCRIPTS)
def test_shell_holds_no_trap(place):
  if not (shellcheck := tool('shellcheck')):
    pytest.skip('needs shellcheck')
  # Whoever types sees where a cd fails.
  excluded = '--exclude=SC1091,SC2164' if place.startswith(PAGE.name) else '--exclude=SC1091'
  assert lint([shellcheck, '--shell=bash', excluded, '-'], SCRIPTS[place]) == ''


def test_the_linters_find_what_is_wrong():
  assert lint(['bash', '-n'], 'if true; then\n')
  if shellcheck := tool('shellcheck'):
    assert 'SC2086' in lint([shellcheck, '--shell=bash', '-'], 'rm $1\n')
  with pytest.raises(AssertionError):
    check_fields({'restartPolcy': 'Never'}, POD, 'Pod')
  with pytest.raises(AssertionError):
    check_fields({'runAsUser': '0'}, CONTAINER['securityContext'], 'Pod')
  _, document = next(x for x in KUBERNETES if x[1]['kind'] == 'Job')
  broken = yaml.safe_load(yaml.safe_dump(document))
  containers(broken)[0]['volumeMounts'][0]['name'] = 'other'
  with pytest.raises(AssertionError):
    check_manifest(broken)


@pytest.mark.parametrize(('place', 'words'), TRAININGS)
def test_commands_are_parsed(place, words, monkeypatch):
  monkeypatch.chdir(ROOT)
  check_ours(words[0], words[1:])


def test_there_are_commands_everywhere():
  places = {place.partition(':')[0] for place, _ in TRAININGS}
  assert places == {
    'tpu.md',
    'slurm.sh',
    'skypilot.yaml',
    'gke_tpu_job.yaml',
    'kubernetes_gpu_job.yaml',
    'memkd.service',
  }
  assert len(SERVICE_FLAGS) == 2
  assert len(TRAININGS) > 8


@pytest.mark.parametrize(('name', 'document'), KUBERNETES, ids=lambda x: str(x)[:30])
def test_manifests(name, document):
  check_manifest(document)


def test_skypilot():
  (document,) = (document for name, document in MANIFESTS if name == 'skypilot.yaml')
  check_fields(document, SKYPILOT, 'skypilot.yaml')
  assert 'BUCKET' in document['envs']


def test_the_page_leads_to_every_file():
  page = PAGE.read_text()
  for path in CLUSTER.iterdir():
    assert f'../examples/cluster/{path.name}' in page or path.name == 'tpu_stopped.sh', path
  assert {place for place, _ in MANIFESTS} < set(os.listdir(CLUSTER))


def test_all_start_again_after_the_exit_code_that_asks_for_it():
  code = interrupt.EXIT_CODE
  for name, document in MANIFESTS:
    if document.get('kind') == 'Job':
      rules = document['spec']['podFailurePolicy']['rules']
      ignored = [rule['onExitCodes']['values'] for rule in rules if 'onExitCodes' in rule]
      assert ignored == [[code], [1, 2]], name
  (sky,) = (document for name, document in MANIFESTS if name == 'skypilot.yaml')
  assert sky['resources']['job_recovery']['recover_on_exit_codes'] == [code]
  assert f'RestartForceExitStatus={code}\n' in (CLUSTER / 'memkd.service').read_text()
  assert f'"$code" -eq {code} ]' in (CLUSTER / 'slurm.sh').read_text()
  assert f'exited:{code} |' in (CLUSTER / 'tpu_stopped.sh').read_text()


def test_extras_exist():
  settings = RawConfigParser()
  settings.read(ROOT / 'setup.cfg')
  known = set(settings['options.extras_require'])
  text = ''.join(SCRIPTS.values()) + PAGE.read_text()
  named = re.findall(r'\.\[([a-z0-9,]+)\]', text) + re.findall(r'EXTRAS=([a-z0-9,]+)', text)
  assert {extra for extras in named for extra in extras.split(',')} <= known


def test_the_unit_is_one_of_systemd(tmp_path):
  if not (analyze := tool('systemd-analyze')):
    pytest.skip('needs systemd-analyze')
  unit = (CLUSTER / 'memkd.service').read_text()
  program = re.search(r'ExecStart=(\S+)', unit)[1]
  for text, fault in ((unit, ''), (unit.replace('Restart=on', 'Restrat=on'), 'Restrat')):
    (tmp_path / 'memkd.service').write_text(text.replace(program, '/bin/true'))
    result = subprocess.run(
      [analyze, 'verify', tmp_path / 'memkd.service'], capture_output=True, text=True
    )
    assert (fault in result.stderr) if fault else (result.stderr == ''), result.stderr


@pytest.fixture
def site(tmp_path, monkeypatch):
  """A folder whose bin/ stands first on PATH; its programs note their words in `calls`."""
  (tmp_path / 'bin').mkdir()
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  monkeypatch.setenv('SITE', str(tmp_path))
  (tmp_path / 'calls').touch()
  return tmp_path


def program(site, name, body=''):
  path = site / 'bin' / name
  path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$SITE/calls"\n{body}\n')
  path.chmod(0o755)


def calls(site):
  return (site / 'calls').read_text().splitlines()


# A cloud that takes the first machine away; on the second the run ends.
CLOUD = """
cd "$SITE"
case "$*" in
  "storage cat"*) cat ended ;;
  *" create "*)
    echo x >> machines; echo SUSPENDED > state
    if [ "$(wc -l < machines)" = 2 ]; then echo ACTIVE > state; echo "$WITH" > ended; fi ;;
  *" describe "*) cat state ;;
  *" delete "*) rm state ;;
esac
"""


@pytest.mark.parametrize('code', [0, 1])
def test_a_spot_machine_is_asked_for_until_the_run_has_ended(site, monkeypatch, code):
  program(site, 'gcloud', CLOUD)
  monkeypatch.setenv('PAUSE', '0')
  monkeypatch.setenv('WITH', f'{code}\nthe last line')
  result = subprocess.run(
    [CLUSTER / 'tpu_spot.sh', 'n', 'z', 'gs://b/run', 'startup.sh'],
    capture_output=True,
    text=True,
    timeout=30,
  )
  assert result.returncode == code, result.stderr
  assert 'the last line' in result.stdout
  words = [line.split()[4] for line in calls(site) if 'queued-resources' in line]
  acts = [word for word in words if word != 'describe']
  assert acts == ['create', 'delete', 'create', 'delete']
  (first, *_) = (line for line in calls(site) if ' create ' in line)
  assert '--spot' in first and '--metadata-from-file=startup-script=startup.sh' in first


@pytest.mark.parametrize(
  ('code', 'status', 'told'),
  [
    ('exited', '0', True),
    ('exited', '1', True),
    ('exited', '75', False),
    ('exited', '143', False),
    ('killed', 'KILL', False),
  ],
)
def test_the_bucket_is_told_of_an_end_and_of_no_interruption(
  site, monkeypatch, code, status, told
):
  program(site, 'gcloud', 'cat > "$SITE/ended"')
  program(site, 'journalctl', 'echo the last line')
  for name, value in {
    'EXIT_CODE': code,
    'EXIT_STATUS': status,
    'MEMKD_RUN': 'gs://b/r',
  }.items():
    monkeypatch.setenv(name, value)
  subprocess.run([CLUSTER / 'tpu_stopped.sh'], check=True)
  assert (site / 'ended').exists() == told
  if told:
    assert (site / 'ended').read_text() == f'{status}\nthe last line\n'
    assert 'gcloud storage cp - gs://b/r.ended' in calls(site)


def test_a_machine_that_boots_installs_once_and_trains(site):
  with tarfile.open(site / 'memkd_jax.tar.gz', 'w:gz') as archive:
    archive.add(CLUSTER, 'examples/cluster')
  program(site, 'gcloud', 'case "$*" in "storage cat"*) cat "$SITE/memkd_jax.tar.gz" ;; esac')
  program(
    site,
    'python3',
    'case "$*" in *venv*) mkdir -p .venv/bin; cp "$SITE/bin/systemctl" .venv/bin/pip ;; esac',
  )
  program(site, 'systemctl')
  script = (CLUSTER / 'tpu_startup.sh').read_text()
  for folder in ('/opt/', '/etc/'):
    (site / folder.strip('/')).mkdir()
    script = script.replace(folder, f'{site}{folder}')
  (site / 'etc' / 'systemd' / 'system').mkdir(parents=True)
  for _ in range(2):
    subprocess.run(['bash', '-c', script.replace('gs://BUCKET', 'gs://b')], check=True)
  assert sum('-e .[gcs] jax[tpu]' in line for line in calls(site)) == 1
  assert calls(site)[-1] == 'systemctl start --no-block memkd'
  assert (site / 'etc/systemd/system/memkd.service').is_file()
  settings = dict(
    line.split('=', 1) for line in (site / 'etc' / 'memkd.env').read_text().splitlines()
  )
  assert settings['MEMKD_RUN'] == 'gs://b/runs/mvtec'
  assert settings['MEMKD_FLAGS'] == SERVICE_FLAGS[-1]


@pytest.mark.slow
def test_gcloud_knows_every_flag(tmp_path):
  """A minute. A flag that there is not keeps the commands from being carried out."""
  if not (gcloud := tool('gcloud')):
    pytest.skip('needs gcloud')

  def unknown(words):
    result = subprocess.run(
      [gcloud, *words, '--no-such-flag'],
      cwd=tmp_path,
      env=os.environ | {'CLOUDSDK_CONFIG': str(tmp_path)},
      capture_output=True,
      text=True,
      stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 2, result.stderr
    return result.stderr

  (tmp_path / 'startup.sh').touch()
  text = re.sub(r'\\\n|2>/dev/null', ' ', ''.join(SCRIPTS.values()))
  text = re.sub(r'\$(bucket|run|MEMKD_RUN)\b', 'gs://b', text).replace('$script', 'startup.sh')
  text = re.sub(r'\$\w+|\$\{[^}]*\}|\bZONE\b', 'us-west4-a', text)
  found = re.findall(r"gcloud ((?:'[^']*'|\"[^\"]*\"|[^\n;|>)'\"])*)", text)
  lines = [line for line in dict.fromkeys(found) if re.match('compute|storage', line)]
  assert len(lines) > 15
  alone = 'unrecognized arguments: --no-such-flag'
  for line in lines:
    message = unknown(shlex.split(line))
    assert alone in message, f'{line}\n{message}'
  assert alone not in unknown([*shlex.split(lines[0]), '--spott'])
