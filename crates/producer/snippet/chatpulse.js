// chatpulse in the page: hears what chat widgets say, redacts it, and brings it to the producer.
//
//   data layer ┐
//   window     ├─ hear ─► redact ─► queue (memory, and localStorage) ─► POST /v1/events/{source}
//   callbacks  ┘
//
// Laws of this file:
// - Nothing is thrown into the page, and what the page does with its own functions and arrays stays.
// - What a source's rules do not list never leaves the page (crates/model/src/source/page.rs).
// - An event is in the queue until the producer has answered that it is durable. Sent twice is
//   harmless, because its id is known there; lost is not.
// - No eval, no inline script, no cookie. ES2019: build.rs minifies this and changes nothing else.
//
// The producer puts the configuration in place of __CHATPULSE__ (crates/producer/src/snippet.rs):
//   v  version    o  stay away where Do Not Track or Global Privacy Control is set
//   s  storage may be used    q  the sources (PageRules)
(function (config) {
  'use strict';

  const page = window;
  const script = document.currentScript;
  // The producer's address and the write key are in this script's own, so that its text, and with it
  // its integrity hash, is the same for everyone.
  const address = /^(.*\/v1\/)chatpulse\b[^?]*\?(?:.*&)?write_key=([^&#]+)/.exec(script && script.src);
  const refused =
    config.o && (navigator.doNotTrack === '1' || page.doNotTrack === '1' || navigator.globalPrivacyControl);
  if (!address || refused || (page.chatpulse && page.chatpulse.version)) return;

  const PREFIX = 'chatpulse.';
  const HALF_HOUR = 18e5;
  const KEPT_MS = 5184e5; // six days, one less than the pipeline remembers event ids
  const QUEUE_MAX = 500;
  const BATCH_MAX = 50;
  // A browser lets requests that outlive their page carry 64 KiB together.
  const BATCH_CHARS = 15e3;
  const GATHER_MS = 1000;
  const ANSWER_MS = 3e4;
  const RETRY_MS = 1000;
  const RETRY_MAX_MS = 3e5;
  const WAIT_MAX_MS = 36e5;

  const quiet = work => {
    try {
      return work();
    } catch (error) {
      // Not the page's concern.
    }
  };
  const now = () => Date.now();
  const hex = word => ((word >>> 0) + 2 ** 32).toString(16).slice(1);
  const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), hex).join('');

  // ---- redaction: what crates/model/src/source/{mask,url,redact}.rs do, or more -------------------

  const EMAIL =
    /(?:"[^"]{1,64}"\p{Cf}*|[^\p{Z}\p{Cc}"]+)(?:@|%(?:25)*40|\uff20|\ufe6b)[^\p{Z}\p{Cc}]+/gu;
  const DIGITS =
    /(?:\+\p{Zs}?)?\(?\p{Nd}(?:\p{Cf}*(?:[\p{Zs}\t().\-/\u2010-\u2015]\p{Cf}*){0,3}\p{Nd}){6,}/gu;
  const DATE = /^(?:20\d\d[-/.][01]?\d[-/.][0-3]?\d|[0-3]?\d[-/.][0-3]?\d[-/.]20\d\d)(?!\d)/;

  const phones = (text, counts) =>
    text.replace(DIGITS, run => {
      let number = run;
      let date;
      while ((date = DATE.exec(number))) number = number.slice(date[0].length).replace(/^[^\p{N}+(]+/u, '');
      return number.replace(/\P{N}/gu, '').length > 6 && counts.test(number)
        ? run.slice(0, run.length - number.length) + '[phone]'
        : run;
    });
  const maskText = text => phones(text.replace(EMAIL, '[email]'), /^/);
  const isPhone = token => {
    const number = token.replace(/^(?:tel|sms|callto|whatsapp):/, '');
    const digits = number.replace(/\D/g, '').length;
    return (
      /^\d+(?:[-.]\d+)*$/.test(number) &&
      ((number[0] === '0' && digits > 8 && digits < 18 && !/^0\.\d+$/.test(number)) ||
        /^(?:\d[-.])?\d{3}[-.]\d{3}[-.]\d{4}$/.test(number))
    );
  };
  const maskToken = text => (/^[\w.:~|=-]*$/.test(text) ? (isPhone(text) ? '[phone]' : text) : maskText(text));

  // Scheme, host and path; of a contact link the scheme; nothing of what is no place.
  const cutLink = link => {
    const [, scheme = '', rest] = /^(?:([a-z][a-z\d+.-]*):)?(.*)$/is.exec(link.trim());
    const kind = scheme.toLowerCase();
    if (/^(?:mailto|tel|sms|callto|facetime|skype|viber|whatsapp|tg)$/.test(kind)) return kind + ':';
    if (!/^(?:https?)?$/.test(kind)) return '';
    const [, slashes = '', authority = '', path] = /^(?:(\/\/)([^/]*))?(.*)$/s.exec(
      rest.replace(/\\/g, '/').split(/[?#]/)[0]
    );
    const host = authority.split('@').pop();
    const start = (kind && kind + ':') + slashes + maskToken(host);
    if (host === 'wa.me') return start;
    const names = path.split('/').map(name => maskToken(name.split(';')[0]));
    const masked = phones(names.join('/'), /^[0+(]/);
    return (start + (start ? masked : masked.replace(/^\/+/, '/'))).trim();
  };

  // 64 bit of two multiplicative hashes, mixed as MurmurHash3 ends. Too short to be turned back into an
  // identifier of a person, and quick; that nobody can try the few values that an agent's name may have
  // is the matter of the producer's keyed pseudonym, which is made of this.
  const hash = text => {
    let a = 1;
    let b = 2;
    for (let i = 0; i < text.length; i++) {
      a = Math.imul(a ^ text.charCodeAt(i), 2654435761);
      b = Math.imul(b ^ text.charCodeAt(i), 1597334677);
    }
    const mix = (one, other) =>
      Math.imul(one ^ (one >>> 16), 2246822507) ^ Math.imul(other ^ (other >>> 13), 3266489909);
    a = mix(a, b);
    return hex(a) + hex(mix(b, a));
  };

  // A value that may leave the page, or undefined. `how` is a letter of PageRules.
  const treat = (how, value) => {
    const type = typeof value;
    const kind = how[0];
    if (value === null || type === 'undefined') return;
    if (type !== 'string' && type !== 'number') {
      if (type === 'boolean' && /[kx]/.test(kind)) return value;
      // The producer refuses the event for it, as it does without this script; its content stays here.
      return /[itd]/.test(kind) ? {} : undefined;
    }
    // A half of a pair of surrogates is no text, and its event would be refused.
    const text = String(value)
      .slice(0, 4096)
      .replace(/[\ud800-\udfff]/gu, '\ufffd')
      .trim();
    if (kind === 'p') return text && hash(how + '\n' + text);
    if (type === 'number' && (kind !== 'x' || maskText(text) === text)) return isFinite(value) ? value : undefined;
    if (kind === 'u') return cutLink(text);
    if (kind === 'd' && /^\d{0,13}$/.test(text)) return text;
    if (kind === 't' && /^(?:\d{0,13}|\d{4}-?\d\d-?\d\d[t ][\d:.+-]*z?)$/i.test(text)) return text;
    // The producer makes a pseudonym of an id that looks like an address.
    if (kind === 'i' && maskToken(text) !== text) return hash(text) + '@id';
    const mask = /[ki]/.test(kind) ? maskToken : maskText;
    return mask(mask(text).slice(0, 1024));
  };
  const redact = (rules, value) => {
    if (typeof rules === 'string') return treat(rules, value);
    const kept = {};
    if (!value || typeof value !== 'object') return;
    for (const key of Object.keys(rules)) kept[key] = redact(rules[key], value[key]);
    return kept;
  };
  const at = (keys, value) =>
    keys.reduce((inner, key) => (inner && typeof inner === 'object' ? inner[key] : undefined), value);

  // ---- the session: one visit of one tab, over its pages, until half an hour without an event ------

  const storage = name => quiet(() => (config.s ? page[name] : undefined));
  const local = storage('localStorage');
  const ofTab = storage('sessionStorage');
  // id; n: events so far; last: time of the last one; wait: when the producer wants to be asked again
  let session = {};

  const saveSession = live =>
    quiet(() => ofTab && ofTab.setItem(PREFIX + 's', JSON.stringify(Object.assign({}, session, { live }))));
  const resumeSession = () => {
    const known = quiet(() => JSON.parse(ofTab.getItem(PREFIX + 's')));
    // A tab that was copied has the session of one that is still there: the copy gets its own.
    if (known && !known.live && known.id) session = known;
    // The page "Is it working?" of the reports opens the site with a session that it knows.
    const check = /[?&]chatpulse_check=(check-\w{16})\b/.exec(page.location.search);
    if (check && check[1] !== session.id) session = { id: check[1], n: 0, last: now() };
    touchSession();
    saveSession(1);
  };
  const touchSession = () => {
    if (!session.id || now() - session.last > HALF_HOUR) session = { id: newId(), n: 0, wait: session.wait };
    session.last = now();
  };

  // ---- the queue: every event is a record of its own, so that tabs do not write over each other ----

  let queue = []; // {key, source, text}
  let flight = []; // those being sent
  let tab = newId();
  let count = 0;

  const forget = items => {
    queue = queue.filter(item => !items.includes(item));
    items.forEach(item => quiet(() => local && local.removeItem(item.key)));
  };
  const enqueue = (source, text) => {
    const item = { key: PREFIX + 'q.' + tab + '.' + count++, source, text };
    queue.push(item);
    quiet(() => local && local.setItem(item.key, source + ' ' + text));
    if (queue.length > QUEUE_MAX) forget([queue.find(old => !flight.includes(old))]);
  };

  // Tabs that are gone left what they could not send. A tab holds a lock as long as it lives, and the
  // locks of those whose events it took over: another tab may for a moment still see these as left.
  let holds = [];
  const hold = () => new Promise(release => holds.push(release));
  const adopt = () =>
    quiet(() => {
      const left = {};
      for (let i = 0; i < local.length; i++) {
        const key = local.key(i);
        const [, owner] = /^chatpulse\.q\.(\w+)\.\d+$/.exec(key) || [];
        if (owner && owner !== tab) (left[owner] = left[owner] || []).push(key);
      }
      Object.keys(left).forEach(owner => {
        const take = () => left[owner].sort(byNumber).forEach(key => quiet(() => takeOver(key)));
        if (navigator.locks) {
          navigator.locks
            .request(PREFIX + owner, { ifAvailable: true }, lock => lock && (take(), hold()))
            .catch(() => {});
        } else {
          take();
        }
      });
    });
  const byNumber = (a, b) => a.split('.').pop() - b.split('.').pop();
  const takeOver = key => {
    const [, source, text] = /^(\S+) (.*)$/s.exec(local.getItem(key));
    const age = quiet(() => now() - JSON.parse(text).context.occurred_at);
    // Without locks nobody knows whether a tab lives: what is old enough was not sent by it.
    if (!navigator.locks && age < 6e4) return;
    if (age < KEPT_MS) enqueue(source, text);
    local.removeItem(key);
    plan(GATHER_MS);
  };
  const live = () => {
    quiet(() => navigator.locks.request(PREFIX + tab, hold).catch(() => {}));
    adopt();
  };

  // ---- delivery -----------------------------------------------------------------------------------

  const send = page.fetch && page.fetch.bind(page);
  let timer = 0;
  let failures = 0;
  let most = BATCH_MAX;

  let notBefore = 0;
  const toWait = () => Math.max(session.wait || 0, notBefore) - now();
  const plan = delay => {
    if (timer || flight.length || !queue.length) return;
    timer = setTimeout(flush, Math.max(delay, toWait()));
  };
  // One source, from the oldest on.
  const nextBatch = items => {
    let chars = 0;
    const source = items.length && items[0].source;
    return items.filter(item => item.source === source).filter((item, index) => {
      chars += item.text.length;
      return !index || (index < most && chars < BATCH_CHARS);
    });
  };
  const target = batch => address[1] + 'events/' + batch[0].source + '?write_key=' + address[2];
  // A string is sent as text/plain, for which a browser asks no leave first.
  const body = batch =>
    '[' + batch.map(item => item.text.slice(0, -2) + ',"sent_at":' + now() + '}}').join(',') + ']';

  const flush = () => {
    clearTimeout(timer);
    timer = 0;
    if (flight.length || !queue.length || toWait() > 0) return plan(0);
    flight = nextBatch(queue);
    const batch = flight;
    const ended = (status, wait) => {
      clearTimeout(patience);
      flight = [];
      if (status === 413 && batch.length > 1) {
        most = batch.length >> 1;
      } else if (!status || status > 499 || /^(?:401|403|408|429)$/.test(status)) {
        const backOff = Math.min(RETRY_MS * 2 ** failures++, RETRY_MAX_MS);
        const jitter = (Math.random() * backOff) / 2;
        notBefore = now() + backOff / 2 + jitter;
        if (wait > 0) session.wait = now() + Math.min(wait, WAIT_MAX_MS) + jitter;
      } else {
        // Taken, or refused for good.
        failures = notBefore = session.wait = 0;
        forget(batch);
      }
      saveSession(1);
      plan(0);
    };
    const abort = new AbortController();
    const patience = setTimeout(() => abort.abort(), ANSWER_MS);
    new Promise(resolve =>
      resolve(
        send(target(batch), {
          method: 'POST',
          body: body(batch),
          keepalive: true,
          credentials: 'omit',
          signal: abort.signal,
        })
      )
    ).then(
      answer => {
        const after = answer.headers.get('Retry-After');
        ended(answer.status, after > 0 ? after * 1000 : Date.parse(after) - now());
      },
      () => ended()
    );
  };

  const leave = () => {
    saveSession();
    holds.forEach(release => release());
    holds = [];
    let rest = queue.filter(item => !flight.includes(item));
    // This page sends nothing more by itself.
    flight = queue;
    if (local && toWait() > 0) return;
    while (rest.length) {
      const batch = nextBatch(rest);
      if (!navigator.sendBeacon(target(batch), body(batch))) return;
      rest = rest.filter(item => !batch.includes(item));
      // Nobody hears whether a beacon arrived: what is stored is sent again by the next page.
      if (!local) forget(batch);
    }
  };
  const comeBack = event => {
    if (!event.persisted) return;
    flight = [];
    // Another page may have sent what this one left.
    if (local) queue = queue.filter(item => local.getItem(item.key));
    resumeSession();
    live();
    plan(0);
  };

  // ---- hearing ------------------------------------------------------------------------------------

  const hear = (source, payload) =>
    quiet(() => {
      touchSession();
      // Counted first: an event that is lost from here on leaves a gap.
      session.n++;
      saveSession(1);
      const native = redact(source.f, payload);
      const place = page.location;
      const context = {
        event_id: newId(),
        session_id: session.id,
        sequence: session.n,
        occurred_at: now(),
        page_url: cutLink(place.origin + place.pathname),
        sdk: 'chatpulse.js/' + config.v,
      };
      enqueue(source.n, JSON.stringify({ native, context }));
      plan(GATHER_MS);
    });

  // Calls of listeners that may come again as a push to the data layer.
  const copies = [];
  const hearPush = item =>
    quiet(() => {
      if (!item || typeof item !== 'object') return;
      const found = config.q.filter(source => {
        const name = source.d && at(source.k, item);
        return (
          typeof name === 'string' &&
          name.startsWith(source.d[0]) &&
          name.endsWith(source.d[1]) &&
          source.d[2].every(keys => at(keys, item) !== undefined)
        );
      });
      if (found.length !== 1) return;
      const copy = found[0].l ? copies.indexOf(at(found[0].k, item)) : -1;
      if (copy < 0) hear(found[0], item);
      else copies.splice(copy, 1);
    });

  const layers = new WeakSet();
  const seen = new WeakSet();
  // What stands at the end and was not seen: it was there before us, or came past us.
  const sweep = (layer, tell) =>
    quiet(() => {
      const fresh = [];
      for (let i = layer.length; i-- > 0; ) {
        const item = layer[i];
        if (!item || typeof item !== 'object') continue;
        if (seen.has(item)) break;
        fresh.unshift(item);
      }
      fresh.forEach(item => {
        seen.add(item);
        tell(item);
      });
    });
  const wrapLayer = given => {
    const layer = given === undefined || given === null ? [] : given;
    if (typeof layer.push !== 'function' || layers.has(layer)) return layer;
    layers.add(layer);
    sweep(layer, hearPush);
    const prior = layer.push;
    const push = function (...items) {
      items.forEach(item => {
        quiet(() => seen.add(item));
        hearPush(item);
      });
      try {
        return prior.apply(this, items);
      } finally {
        // A copy that an earlier function pushed instead is none of its own.
        sweep(layer, () => {});
      }
    };
    Object.defineProperty(layer, 'push', { value: push, configurable: true, writable: true });
    return layer;
  };

  const wrappers = new WeakSet();
  let handedOn; // arguments that a wrapper is handing on: a wrapper within it is told nothing new
  const wrapCallback = source => given => {
    if (wrappers.has(given)) return given;
    const wrapper = function (...values) {
      const outer = handedOn;
      if (!outer || outer.some((value, index) => value !== values[index])) {
        const payload = {};
        source.c.slice(1).forEach((name, index) => (payload[name] = values[index]));
        hear(source, payload);
      }
      handedOn = values;
      try {
        if (typeof given === 'function') return given.apply(this, values);
      } finally {
        handedOn = outer;
      }
    };
    wrappers.add(wrapper);
    return wrapper;
  };

  const wrapListeners = source => given => {
    const [, command, option] = source.l;
    if (typeof given !== 'function' || wrappers.has(given)) return given;
    const listener = (name, payload) => {
      hear(source, quiet(() => Object.assign({}, payload, { [source.k[0]]: name })));
      copies.push(name);
      if (copies.length > 50) copies.shift();
    };
    const wrapper = new Proxy(given, {
      apply: (target, self, values) => {
        const call = quiet(() => {
          if (values[0] !== command) return;
          const options = Object.assign({}, values[1]);
          options[option] = [listener].concat(options[option] || []);
          return Object.assign([], values, { 1: options });
        });
        return Reflect.apply(target, self, call || values);
      },
    });
    wrappers.add(wrapper);
    return wrapper;
  };

  // Puts a wrapper around what stands under a name of the window, now and later. A `var` makes a
  // property that cannot be redefined, and a function declaration replaces ours: hence `check`.
  const checks = [];
  const hook = (name, wrap) => {
    let value;
    const set = given => {
      value = given;
      quiet(() => (value = wrap(given)));
    };
    const check = () => {
      const given = page[name];
      if (given === value && checks.includes(check)) return;
      set(given);
      try {
        Object.defineProperty(page, name, { configurable: true, enumerable: true, get: () => value, set });
      } catch (error) {
        if (given !== value) page[name] = value;
      }
    };
    quiet(check);
    checks.push(check);
  };
  let pause = 50;
  const look = () => {
    checks.forEach(quiet);
    quiet(() => sweep(page.dataLayer, hearPush));
  };
  const keepLooking = () => {
    look();
    pause = Math.min(pause * 1.5, 2000);
    setTimeout(keepLooking, pause);
  };

  quiet(() => {
    resumeSession();
    live();
    const shown = {
      version: config.v,
      get session() {
        return session.id;
      },
    };
    // A name that the site uses is the site's.
    if (!page.chatpulse) Object.defineProperty(page, 'chatpulse', { value: Object.freeze(shown) });
    if (config.q.some(source => source.d)) hook('dataLayer', wrapLayer);
    config.q.forEach(source => {
      if (source.c) hook(source.c[0], wrapCallback(source));
      if (source.l) hook(source.l[0], wrapListeners(source));
      (source.w || []).forEach(name =>
        addEventListener(name, event => hear(source, { type: event.type, detail: event.detail }), true)
      );
    });
    keepLooking();
    // A script that has just run may have declared what we stand in front of.
    document.addEventListener('load', look, true);
    document.addEventListener('DOMContentLoaded', look);
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) flush();
      else quiet(adopt);
    });
    addEventListener('online', () => {
      failures = notBefore = 0;
      adopt();
      flush();
    });
    addEventListener('pagehide', () => quiet(leave));
    addEventListener('pageshow', event => quiet(() => comeBack(event)));
  });
})(__CHATPULSE__);
