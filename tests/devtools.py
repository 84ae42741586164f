"""Drives a headless Chromium through its DevTools pipe, which needs no other library."""

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


class Browser:
  """One page of a browser; requests to other hosts than loopback fail."""

  def __init__(self, profile: Path):
    """Starts it."""
    to_browser, self._out = os.pipe()
    self._in, from_browser = os.pipe()

    # The browser reads what is asked at 3, and answers at 4.
    script = 'r=$1; w=$2; shift 2; eval "exec \\"\\$@\\" 3<&$r 4>&$w"'
    self._process = subprocess.Popen(
      [
        'bash',
        '-c',
        script,
        'bash',
        str(to_browser),
        str(from_browser),
        str(CHROMIUM),
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--no-first-run',
        '--hide-scrollbars',
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
        f'--user-data-dir={profile}',
        '--remote-debugging-pipe',
      ],
      pass_fds=(to_browser, from_browser),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    self._number = 0
    self._buffer = b''
    self._session: str | None = None
    self.events: list[dict[str, Any]] = []
    target = self.ask('Target.createTarget', url='about:blank')['targetId']
    attached = self.ask('Target.attachToTarget', targetId=target, flatten=True)
    self._session = attached['sessionId']
    for domain in ('Page', 'DOM', 'Runtime', 'Log', 'Network'):
      self.ask(f'{domain}.enable')

  def __enter__(self) -> 'Browser':
    return self

  def __exit__(self, *error: object) -> None:
    self._process.terminate()
    self._process.wait(30)
    os.close(self._out)
    os.close(self._in)

  def ask(self, method: str, **params: Any) -> Any:
    """Sends a command, and waits for its answer."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._number:
        assert 'error' not in answer, answer
        return answer['result']
      self.events.append(answer)

  def _receive(self) -> Any:
    while b'\0' not in self._buffer:
      part = os.read(self._in, 2**16)
      assert part, 'the browser ended'
      self._buffer += part
    message, self._buffer = self._buffer.split(b'\0', 1)
    return json.loads(message)

  def show(self, url: str, width: int = 1200, height: int = 900, dark: bool = False) -> None:
    """Loads a page at a size of the window."""
    scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
    self.ask('Emulation.setEmulatedMedia', features=[scheme])
    self.ask(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
    self.ask('Page.navigate', url=url)
    self.wait('document.readyState === "complete"')

  def value(self, expression: str) -> Any:
    """What JavaScript gives."""
    answer = self.ask(
      'Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True
    )
    assert 'exceptionDetails' not in answer, answer
    return answer['result'].get('value')

  def wait(self, expression: str, seconds: float = 60) -> None:
    """Waits until JavaScript gives something true."""
    end = time.monotonic() + seconds
    while not self.value(expression):
      assert time.monotonic() < end, f'{expression} stays false'
      time.sleep(0.05)

  def choose(self, selector: str, *files: Path) -> None:
    """Chooses files as a user does."""
    root = self.ask('DOM.getDocument')['root']['nodeId']
    node = self.ask('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
    self.ask('DOM.setFileInputFiles', nodeId=node, files=[str(file) for file in files])

  def drop(self, *files: Path) -> None:
    """Drops files on the page."""
    data = {'items': [], 'files': [str(file) for file in files], 'dragOperationsMask': 1}
    for kind in ('dragEnter', 'dragOver', 'drop'):
      self.ask('Input.dispatchDragEvent', type=kind, x=300, y=200, data=data)

  def press(self, key: str, code: int) -> None:
    """Presses a key and lets it go."""
    for kind in ('keyDown', 'keyUp'):
      self.ask('Input.dispatchKeyEvent', type=kind, key=key, windowsVirtualKeyCode=code)

  def screenshot(self, path: Path) -> None:
    """Writes a PNG of the whole page."""
    answer = self.ask('Page.captureScreenshot', captureBeyondViewport=True)
    path.write_bytes(b64decode(answer['data']))

  def complaints(self) -> list[str]:
    """What the console shows."""
    found = []
    for event in self.events:
      if event.get('method') in ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled'):
        found.append(json.dumps(event['params']))
      if event.get('method') == 'Log.entryAdded':
        found.append(event['params']['entry']['text'])
    return found

  def requests(self) -> list[str]:
    """What the page asked for."""
    return [
      event['params']['request']['url']
      for event in self.events
      if event.get('method') == 'Network.requestWillBeSent'
    ]
