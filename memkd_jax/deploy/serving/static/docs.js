'use strict';

// A small view of openapi.json: the usual ones load their scripts from elsewhere.

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function table(rows) {
  const body = rows.map((cells) => make('tr', '', ...cells.map((cell) => make('td', cell))));
  return make('table', '', make('tbody', '', ...body));
}

function nameOf(reference) {
  return reference.split('/').pop();
}

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(' or ');
  if (schema.type === 'array') {
    return schema.items ? `list of ${typeOf(schema.items)}` : 'list of numbers';
  }
  return schema.format || schema.type || 'anything';
}

function fields(schema) {
  return Object.entries(schema.properties || {}).map(([name, field]) => [
    name,
    typeOf(field) + (field.description ? `. ${field.description}` : ''),
  ]);
}

function operation(path, method, content) {
  const section = make('section', '', make('h2', `${method.toUpperCase()} ${path}`));
  section.append(make('p', content.summary));
  const parameters = (content.parameters || []).map((p) => [`?${p.name}=`, p.description || '']);
  const form = content.requestBody?.content['multipart/form-data']?.schema;
  if (form) parameters.push(...fields(form).map(([name, text]) => [name, `form field: ${text}`]));
  if (parameters.length) section.append(make('h3', 'Asks for'), table(parameters));
  const answers = Object.entries(content.responses).map(([status, answer]) => {
    const schema = answer.content?.['application/json']?.schema;
    return [status, answer.description + (schema?.$ref ? `: ${nameOf(schema.$ref)}` : '')];
  });
  section.append(make('h3', 'Answers'), table(answers));
  return section;
}

async function start() {
  const api = await (await fetch('openapi.json')).json();
  document.getElementById('description').textContent = `${api.info.title} ${api.info.version}`;
  document.getElementById('example').textContent =
    `curl -F images=@a.png -F images=@b.png '${location.origin}/api/score'`;
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, content]) => operation(path, method, content))
  );
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const rows = fields(schema);
    if (rows.length) sections.push(make('section', '', make('h2', name), table(rows)));
  }
  document.getElementById('operations').replaceChildren(...sections);
}

start().catch(() => {
  document.getElementById('description').textContent = 'The server cannot be reached.';
});
