//! Commands to the browser and their answers, over one WebSocket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::DEADLINE;

type Pending = HashMap<u64, oneshot::Sender<Value>>;
type Listeners = HashMap<String, mpsc::UnboundedSender<Value>>;

#[derive(Clone)]
pub(crate) struct Wire {
    out: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    pending: Mutex<Pending>,
    listeners: Mutex<Listeners>,
}

impl Wire {
    pub(crate) async fn connect(url: &str) -> Wire {
        // A screenshot is one message.
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let (socket, _) = tokio_tungstenite::connect_async_with_config(url, Some(config), false)
            .await
            .expect("connecting to Chromium");
        let (mut sink, mut stream) = socket.split();
        let (out, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        let shared = Arc::new(Shared::default());
        let reader = shared.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Text(text) = message
                    && let Ok(value) = serde_json::from_str(text.as_str())
                {
                    reader.take(value);
                }
            }
            // Whoever waits is told that nothing will come.
            reader.pending.lock().expect("not poisoned").clear();
        });
        Wire { out, shared }
    }

    /// What the browser says of a session without having been asked.
    pub(crate) fn listen(&self, session: &str) -> mpsc::UnboundedReceiver<Value> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared
            .listeners
            .lock()
            .expect("not poisoned")
            .insert(session.to_owned(), sender);
        receiver
    }

    /// Sends a command and waits for its result.
    pub(crate) async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.try_call(session, method, params)
            .await
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The same, where the browser may refuse.
    pub(crate) async fn try_call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, Value> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let (sender, receiver) = oneshot::channel();
        self.shared
            .pending
            .lock()
            .expect("not poisoned")
            .insert(id, sender);
        self.out
            .send(Message::text(command.to_string()))
            .expect("Chromium has ended");
        let mut answer = tokio::time::timeout(DEADLINE, receiver)
            .await
            .unwrap_or_else(|_| panic!("{method}: no answer in time"))
            .unwrap_or_else(|_| panic!("{method}: Chromium has ended"));
        match answer["error"].take() {
            Value::Null => Ok(answer["result"].take()),
            error => Err(error),
        }
    }
}

impl Shared {
    fn take(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(sender) = self.pending.lock().expect("not poisoned").remove(&id) {
                let _ = sender.send(message);
            }
        } else if let Some(session) = message["sessionId"].as_str()
            && let Some(listener) = self.listeners.lock().expect("not poisoned").get(session)
        {
            let _ = listener.send(message);
        }
    }
}
