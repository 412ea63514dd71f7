// The page on which a user signs in. What a client then asks for is granted: all clients are those of this installation.
const HEADERS = {
  'content-type': 'text/html; charset=utf-8',
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};
const LARGEST = 16384; // bytes of a form

function page(uid, message) {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in</title>
<style>body{font:1rem system-ui;max-width:22rem;margin:4rem auto;padding:0 1rem}label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}
input,button{margin:.2rem 0 1rem;padding:.5rem}.error{color:#a00}</style>
<h1>Sign in</h1><p>This provider is for laptops and tests.</p>${message ? `<p class="error" role="alert">${message}</p>` : ''}
<form method="post" action="/interaction/${uid}" autocomplete="on">
<label for="name">User</label><input id="name" name="name" autocomplete="username" autofocus required>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button></form></html>`;
}

async function form(request) {
  let text = '';
  for await (const part of request) {
    text += part;
    if (text.length > LARGEST) throw new Error('the form is too long');
  }
  return new URLSearchParams(text);
}

async function consent(provider, details) {
  const { grantId, session, params, prompt } = details;
  const grant = (grantId && await provider.Grant.find(grantId)) || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) grant.addResourceScope(resource, scopes.join(' '));
  return { consent: { grantId: await grant.save() } };
}

// Answer a request below /interaction/.
export async function answer(provider, users, request, response) {
  const show = (status, text) => response.writeHead(status, HEADERS).end(text);
  try {
    const details = await provider.interactionDetails(request, response);
    if (details.prompt.name === 'consent') {
      return await provider.interactionFinished(request, response, await consent(provider, details), { mergeWithLastSubmission: true });
    }
    if (request.method !== 'POST') return show(200, page(details.uid));
    const given = await form(request);
    if (!(await users.check(given.get('name'), given.get('password')))) return show(401, page(details.uid, 'The user or the password is wrong.'));
    return await provider.interactionFinished(request, response, { login: { accountId: given.get('name') } }, { mergeWithLastSubmission: false });
  } catch (error) {
    if (error.name !== 'SessionNotFound') console.error(error);
    return show(400, '<!doctype html><title>Sign in</title><p>This sign-in is over. Go back to where you came from and start again.</p>');
  }
}
