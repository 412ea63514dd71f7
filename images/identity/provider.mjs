// An OpenID provider for laptops and tests, with users from a file. Tokens live in memory: a restart signs everybody out; the keys stay.
//
// Settings by the environment: ISSUER, PORT, HEALTH_PORT, AUDIENCE and TTL (s) of access tokens, TLS (folder: fullchain.pem, privkey.pem),
// SECRETS (folder: identity-users, identity-clients), DATA (folder of the keys). README.md has the form of the files.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { exportJWK, generateKeyPair } from 'jose';
import Provider, { errors } from 'oidc-provider';
import { answer } from './interaction.mjs';
import { refusal } from './names.mjs';
import { Users } from './users.mjs';

const env = process.env;
const issuer = env.ISSUER ?? 'https://localhost:9443';
const tls = env.TLS ?? '/etc/tls';
const secrets = env.SECRETS ?? '/run/secrets';
const data = env.DATA ?? '/var/lib/mlaas-identity';
const lifetime = Number(env.TTL ?? 3600);
const HEALTH = Number(env.HEALTH_PORT ?? 9080); // on loopback, without TLS
const RESOURCE = 'urn:mlaas';
const SCOPES = 'compute.create compute.read compute.modify compute.cancel storage.read:/';
const STANDARD = ['openid', 'profile', 'email', 'offline_access', 'wlcg', 'wlcg.groups'];

function end(sentence) {
  console.error(`identity: ${sentence}`);
  process.exit(2);
}

function parsed(name) {
  const file = path.join(secrets, name);
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch (error) {
    return end(`${file} cannot be used: ${error.code ?? 'it is not JSON'}`);
  }
}

// Made at the first start. Written aside and renamed, so that a start that is killed leaves nothing half done.
async function keys() {
  const file = path.join(data, 'keys.json');
  if (!fs.existsSync(file)) {
    const made = await Promise.all(['RS256', 'ES256'].map(async (alg) => {
      const { privateKey } = await generateKeyPair(alg, { extractable: true });
      return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: randomBytes(8).toString('hex') };
    }));
    fs.writeFileSync(`${file}.part`, JSON.stringify({ keys: made, cookies: [randomBytes(32).toString('base64url')] }), { mode: 0o600 });
    fs.renameSync(`${file}.part`, file);
  }
  return JSON.parse(fs.readFileSync(file, 'utf8'));
}

const resourceServer = { scope: SCOPES, audience: env.AUDIENCE ?? 'mlaas', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } }, accessTokenTTL: lifetime };

function configuration({ keys: jwks, cookies }, clients, users) {
  return {
    clients,
    jwks: { keys: jwks },
    cookies: { keys: cookies },
    extraClientMetadata: { properties: ['groups'] },
    scopes: [...STANDARD, ...SCOPES.split(' ')],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'], wlcg: ['wlcg.groups'], 'wlcg.groups': ['wlcg.groups'] },
    conformIdTokenClaims: false, // gateways read the groups from the ID token
    pkce: { required: (ctx, client) => client.tokenEndpointAuthMethod === 'none' },
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    ttl: { AccessToken: lifetime, ClientCredentials: lifetime, IdToken: lifetime, AuthorizationCode: 60, DeviceCode: 600, Interaction: 600, Session: 28800, Grant: 28800, RefreshToken: 28800 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => oneOf ?? RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => {
          if (resource !== RESOURCE) throw new errors.InvalidTarget();
          return resourceServer;
        },
      },
    },
    findAccount: (ctx, name) => users.account(name),
    extraTokenClaims: (ctx, token) => ({
      'wlcg.ver': '1.0',
      'wlcg.groups': users.groups(token.accountId) ?? token.client?.groups ?? [],
      sub: token.accountId ?? token.clientId,
      ...(token.accountId && { preferred_username: token.accountId }),
    }),
    renderError: (ctx, out) => {
      ctx.type = 'text/plain';
      ctx.body = `${out.error}: ${out.error_description ?? ''}\n`;
    },
  };
}

// The password grant (RFC 6749, 4.3), for scripts, is not built in.
function passwordGrant(provider, users) {
  return async (ctx) => {
    const { username, password, scope } = ctx.oidc.params;
    if (!(await users.check(username, password))) throw new errors.InvalidGrant('wrong user or password');
    const { client } = ctx.oidc;
    const granted = (scope ?? '').split(' ').filter((name) => SCOPES.split(' ').includes(name)).join(' ');
    const grant = new provider.Grant({ accountId: username, clientId: client.clientId });
    if (granted) grant.addResourceScope(RESOURCE, granted);
    await grant.save();
    const token = new provider.AccessToken({ accountId: username, client, grantId: grant.jti, gty: 'password', scope: granted || undefined });
    token.resourceServer = new provider.ResourceServer(RESOURCE, resourceServer);
    ctx.oidc.entity('AccessToken', token);
    ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: token.expiration, scope: granted };
  };
}

const refused = refusal(issuer);
if (refused) end(refused);
const users = new Users(parsed('identity-users'));
const provider = new Provider(issuer, configuration(await keys(), parsed('identity-clients'), users));
provider.on('server_error', (ctx, error) => console.error(error));
provider.registerGrantType('password', passwordGrant(provider, users), ['username', 'password', 'scope']);

const callback = provider.callback();
const options = { minVersion: 'TLSv1.2' };
try {
  options.cert = fs.readFileSync(path.join(tls, 'fullchain.pem'));
  options.key = fs.readFileSync(path.join(tls, 'privkey.pem'));
} catch (error) {
  end(`the certificate or its key in ${tls} cannot be read: ${error.code}`);
}
const server = https.createServer(options, (request, response) => {
  const handle = request.url.startsWith('/interaction/') ? answer(provider, users, request, response) : callback(request, response);
  return handle;
});
server.listen(Number(env.PORT ?? 9443), () => {
  http.createServer((request, response) => response.writeHead(request.url === '/healthz' ? 200 : 404).end()).listen(HEALTH, '127.0.0.1');
  console.log(`identity: ${issuer}`);
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 5000).unref();
  });
}
