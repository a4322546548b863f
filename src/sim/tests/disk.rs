//! What a simulated disk keeps and loses.
